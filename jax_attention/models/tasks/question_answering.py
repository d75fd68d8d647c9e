r"""Extractive question answering: scores of each token as the start and the end of the answer.

$$ (s_i, e_i) = W x_i + b $$
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.models.tasks.results import SpanOutput


@checked
class QuestionAnswering(nnx.Module):
    """Start and end scores of each token for an answer span (Devlin et al. 2018, section 4.2).

    Args:
        embed_dim: number of features per position.
        bias: whether the linear layer has a bias.
    """

    returns: ClassVar = SpanOutput

    def __init__(
        self,
        embed_dim: int,
        *,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.span_proj = linear(embed_dim, 2, bias=bias, **factory)

    def __call__(
        self, x: Float[Array, "batch length embed"]
    ) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
        """Compute start and end scores at each position of the last hidden states `x`."""
        check_sequence("x", x, self.embed_dim)
        scores = self.span_proj(x)  # batch length 2
        return scores[..., 0], scores[..., 1]
