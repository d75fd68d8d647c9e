r"""Extractive question answering: scores of each token as the start and the end of the answer.

$$ (s_i, e_i) = W f(U x_i + u) + b $$

Without an activation f there is no hidden layer: $W x_i + b$, as in BERT.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.activations import activation_function
from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.models.tasks.results import SpanOutput
from jax_attention.norms import normalise


@checked
class QuestionAnswering(nnx.Module):
    """Start and end scores of each token for an answer span (Devlin et al. 2018, section 4.2).

    Args:
        embed_dim: number of features per position.
        activation: activation of the hidden layer, such as `"gelu"`; None for no hidden layer.
        hidden_bias: whether the hidden layer has a bias.
        hidden_norm: norm after the hidden layer, such as `norms.layer_norm(embed_dim)`; None for none.
        bias: whether the last linear layer has a bias.

    Raises:
        ValueError: the activation is unknown.
    """

    returns: ClassVar = SpanOutput

    def __init__(
        self,
        embed_dim: int,
        *,
        activation: str | None = None,
        hidden_bias: bool = True,
        hidden_norm: nnx.Module | None = None,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.activation = None if activation is None else activation_function(activation)
        self.hidden_proj = (
            None if activation is None else linear(embed_dim, embed_dim, bias=hidden_bias, **factory)
        )
        self.hidden_norm = hidden_norm
        self.span_proj = linear(embed_dim, 2, bias=bias, **factory)

    def __call__(
        self, x: Float[Array, "batch length embed"]
    ) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
        """Compute start and end scores at each position of the last hidden states `x`."""
        check_sequence("x", x, self.embed_dim)
        if self.hidden_proj is not None and self.activation is not None:
            x = self.activation(self.hidden_proj(x))  # batch length embed
            x = x if self.hidden_norm is None else normalise(self.hidden_norm, x)
        scores = self.span_proj(x)  # batch length 2
        return scores[..., 0], scores[..., 1]
