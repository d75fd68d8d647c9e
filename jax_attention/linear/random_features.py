r"""Random features whose inner products approximate the softmax kernel (Choromanski et al. 2020).

$$ \phi(x) = \frac{1}{\sqrt{m}} \exp\!\left(\omega^\top \hat{x} - \tfrac12 |\hat{x}|^2\right), \quad
   \hat{x} = x / d^{1/4}, \qquad \mathrm{E}\left[\phi(q) \cdot \phi(k)\right] = \exp(q \cdot k / \sqrt{d}) $$

| symbol | argument   | shape                  |
|--------|------------|------------------------|
| ω      | `features` | `(features, head_dim)` |
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.ops import at_least_float32


@checked
def orthogonal_features(
    normal: Float[Array, "features head_dim"],
) -> Float[Array, "features head_dim"]:
    """Orthogonalise normal vectors in groups of `head_dim`, keeping their lengths (section 3).

    Each vector remains normally distributed, because the direction of a normal vector is independent of its length.

    Args:
        normal: standard normal samples, `(features, head_dim)`.

    Returns:
        Vectors `(features, head_dim)`, orthogonal within each group of `head_dim` rows.
    """
    wide, head_dim = at_least_float32(normal), normal.shape[1]
    blocks = []
    for start in range(0, normal.shape[0], head_dim):
        block = wide[start : start + head_dim]  # at most head_dim rows
        directions, triangle = jnp.linalg.qr(block.mT)  # head_dim rows, rows rows
        signs = jnp.where(einsum("ii->i", triangle) < 0, -1.0, 1.0)[None]  # Gram-Schmidt signs
        blocks.append((directions * signs).mT * jnp.sqrt((block * block).sum(-1))[:, None])
    return jnp.concatenate(blocks, axis=0).astype(normal.dtype)


@checked
def log_softmax_features(
    x: Float[Array, "batch heads length head_dim"], features: Float[Array, "features head_dim"]
) -> Float[Array, "batch heads length features"]:
    """Compute log-features log φ(x) without the constant factor 1/√m, which cancels: ωᵀx̂ - |x̂|²/2.

    The result is in at least float32.
    """
    x = at_least_float32(x) * x.shape[-1] ** -0.25  # batch heads length head_dim
    along = einsum("bhld,fd->bhlf", x, features.astype(x.dtype))
    return along - (x * x).sum(-1)[..., None] / 2


@checked
def query_features(query: Float[Array, "... features"]) -> Float[Array, "... features"]:
    """Compute φ(q) divided by its largest feature, from log φ(q)."""
    query = at_least_float32(query)
    return jnp.exp(query - jnp.amax(query, axis=-1, keepdims=True))


@checked
def divide(
    x: Float[Array, "... length dim"], total: Float[Array, "... length"]
) -> Float[Array, "... length dim"]:
    """Compute x / total, and zero where the total is zero."""
    some = (total > 0)[..., None]
    return jnp.where(some, x, 0.0) / jnp.where(some, total[..., None], 1.0)


def empty_exponent() -> float:
    """Exponent of an empty state, below the exponent of any key."""
    return -1e30  # not a global: the compiler would make it a symbol, which a scan does not accept


def over_largest(
    key: Float[Array, "batch heads size features"], before: Float[Array, "batch heads"] | None
) -> tuple[Float[Array, "batch heads size features"], Float[Array, "batch heads"]]:
    """Divide φ(k) by the largest key feature so far, from log φ(k); also return the logarithm of this divisor."""
    seen = key != -jnp.inf
    key = jnp.where(seen, key, empty_exponent())
    exponent = (
        key.sum(axis=(-2, -1)) + empty_exponent() if key.shape[-2] == 0 else jnp.amax(key, axis=(-2, -1))
    )
    exponent = exponent if before is None else jnp.maximum(before, exponent)
    return jnp.where(seen, jnp.exp(key - exponent[..., None, None]), 0.0), exponent
