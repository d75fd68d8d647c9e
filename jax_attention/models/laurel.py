r"""Learned augmented residual (LAuReL: Menghani et al. 2024).

$$ \mathrm{laurel}(x) = x + \mathrm{norm}(R L x) $$

The matrix R L of low rank r is learned beside the identity, in the place of a plain residual connection.

| symbol | argument or parameter |
|--------|-----------------------|
| L, R   | `left_proj`, `right_proj` |
| r      | `rank`                |
| norm   | `norm`                |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.norms import normalise, rms_norm


@checked
class LearnedAugmentedResidual(nnx.Module):
    """Residual connection with a learned map of low rank: x + norm(right(left(x))) (Menghani et al. 2024).

    Args:
        embed_dim: features of input and output.
        rank: rank of the learned map.
        eps: constant added to the mean square in the norm.
    """

    def __init__(
        self,
        embed_dim: int,
        rank: int,
        *,
        eps: float = 1e-6,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.left_proj = linear(embed_dim, rank, bias=False, **factory)
        self.right_proj = linear(rank, embed_dim, bias=False, **factory)
        self.norm = rms_norm(embed_dim, eps=eps, **factory)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Apply the connection to each position of `x`, `(batch, length, embed_dim)`."""
        check_sequence("x", x, self.embed_dim)
        return x + normalise(self.norm, self.right_proj(self.left_proj(x)))  # batch length embed
