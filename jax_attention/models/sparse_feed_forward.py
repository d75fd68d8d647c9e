r"""Gated feed-forward network of which only the largest gates are open (Gemma 3n, Google 2025; Spark Transformer).

$$ y = D\,(f(\max(g - \theta, 0)) \odot U x), \qquad g = G x, \qquad
   \theta = \mathrm{mean}(g) + \Phi^{-1}(p)\, \mathrm{std}(g) $$

If the gates of a position were normally distributed, a share p of them would be closed (You et al. 2025).

| symbol  | argument or parameter               |
|---------|-------------------------------------|
| G, U, D | `gate_proj`, `up_proj`, `down_proj` |
| f       | `activation`                        |
| p       | `sparsity`                          |
"""

from statistics import NormalDist

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.activations import activation_function
from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.ops import at_least_float32
from jax_attention.roots import root


@checked
class SparseGatedFeedForward(nnx.Module):
    """Gated feed-forward network with sparse gates: down(activation(max(gate(x) - threshold, 0)) * up(x)).

    The threshold of each position closes about a share `sparsity` of the gates (You et al. 2025, Spark Transformer).

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        sparsity: share of closed gates, between 0 and 1.
        activation: activation of the gate; any activation of `FeedForward`.

    Raises:
        ValueError: `sparsity` is not between 0 and 1, or the activation is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        sparsity: float,
        activation: str = "gelu_tanh",
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        if not 0.0 < sparsity < 1.0:
            raise ValueError(f"sparsity must be between 0 and 1, got {sparsity}")
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.deviations = NormalDist().inv_cdf(sparsity)
        self.gate_proj = linear(embed_dim, ffn_dim, bias=False, **factory)
        self.up_proj = linear(embed_dim, ffn_dim, bias=False, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=False, **factory)
        self.activation = activation_function(activation)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Apply the network to each position of `x`, `(batch, length, embed_dim)`."""
        check_sequence("x", x, self.embed_dim)
        gate = at_least_float32(self.gate_proj(x))  # batch length ffn
        centred = gate - gate.mean(axis=-1, keepdims=True)  # batch length ffn
        deviation = root((centred * centred).mean(axis=-1, keepdims=True))  # batch length 1
        open = jnp.clip(centred - self.deviations * deviation, min=0.0)  # batch length ffn
        return self.down_proj(self.activation(open.astype(x.dtype)) * self.up_proj(x))  # batch length embed
