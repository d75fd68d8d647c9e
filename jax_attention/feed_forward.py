"""The feed-forward network of a Transformer block, applied to each position by itself."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.activations import activation_function, sigmoid
from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Dropout, Factory, linear


@checked
class FeedForward(nnx.Module):
    """down(activation(up(x))) (Vaswani et al. 2017, section 3.3).

    Args:
        embed_dim: features of input and output.
        ffn_dim: features in between.
        activation: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or `"silu"`.
        bias: whether the two maps have biases.
        dropout: rate at which the features in between are dropped in training.

    Raises:
        ValueError: an unknown activation, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        activation: str = "relu",
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.activation = activation_function(activation)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        *,
        dropout_keep: Bool[Array, "batch length ffn"] | None = None,
    ) -> Float[Array, "batch length embed"]:
        """Transform each position; `dropout_keep` is the dropout mask of the hidden features, True keeps."""
        check_sequence("x", x, self.embed_dim)
        hidden = self.activation(self.up_proj(x))  # batch length ffn
        return self.down_proj(self.dropout(hidden, dropout_keep))  # batch length embed


@checked
class GatedFeedForward(nnx.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020; with `"silu"` it is SwiGLU, with `"gelu"` GEGLU).

    Args:
        embed_dim: features of input and output.
        ffn_dim: features in between.
        activation: of the gate: `"silu"`, or any other that `FeedForward` takes.
        bias: whether the three maps have biases.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        activation: str = "silu",
        bias: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.gate_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.activation = activation_function(activation)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Transform each position."""
        check_sequence("x", x, self.embed_dim)
        hidden = self.activation(self.gate_proj(x)) * self.up_proj(x)  # batch length ffn
        return self.down_proj(hidden)  # batch length embed


@checked
class ClampedFeedForward(nnx.Module):
    """down((up(x) + 1) * gate(x) * sigmoid(1.702 gate(x))), gate and up clamped (gpt-oss, OpenAI 2025).

    Args:
        embed_dim: features of input and output.
        ffn_dim: features in between.
        limit: what no gate exceeds, and no value of `up` in either direction.
        bias: whether the three maps have biases.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        limit: float = 7.0,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.limit = limit
        self.gate_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Transform each position."""
        check_sequence("x", x, self.embed_dim)
        gate = jnp.clip(self.gate_proj(x), max=self.limit)  # batch length ffn
        up = jnp.clip(self.up_proj(x), -self.limit, self.limit)  # batch length ffn
        return self.down_proj((up + 1.0) * gate * sigmoid(1.702 * gate))  # batch length embed
