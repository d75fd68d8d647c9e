r"""Random features, whose inner products are on average the exponentials of softmax (Choromanski et al. 2020).

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
    """Make normal vectors orthogonal to each other, d at a time, each as long as it was (section 3).

    Each is then still normal, for the directions of normal vectors are independent of their lengths.

    Args:
        normal: standard normal numbers.
    """
    wide, head_dim = at_least_float32(normal), normal.shape[1]
    blocks = []
    for start in range(0, normal.shape[0], head_dim):
        block = wide[start : start + head_dim]  # at most head_dim rows
        directions, triangle = jnp.linalg.qr(block.mT)  # head_dim rows, rows rows
        signs = jnp.where(einsum("ii->i", triangle) < 0, -1.0, 1.0)[None]  # as by Gram & Schmidt
        blocks.append((directions * signs).mT * jnp.sqrt((block * block).sum(-1))[:, None])
    return jnp.concatenate(blocks, axis=0).astype(normal.dtype)


@checked
def log_softmax_features(
    x: Float[Array, "batch heads length head_dim"], features: Float[Array, "features head_dim"]
) -> Float[Array, "batch heads length features"]:
    """Log φ(x) but for the constant factor 1/√m, which cancels: ωᵀx̂ - |x̂|²/2, in at least float32."""
    x = at_least_float32(x) * x.shape[-1] ** -0.25  # batch heads length head_dim
    along = einsum("bhld,fd->bhlf", x, features.astype(x.dtype))
    return along - (x * x).sum(-1)[..., None] / 2


@checked
def query_features(query: Float[Array, "... features"]) -> Float[Array, "... features"]:
    """Φ(q) over its largest feature, from log φ(q)."""
    query = at_least_float32(query)
    return jnp.exp(query - jnp.amax(query, axis=-1, keepdims=True))


@checked
def divide(
    x: Float[Array, "... length dim"], total: Float[Array, "... length"]
) -> Float[Array, "... length dim"]:
    """X / total, and zero where the total is."""
    some = (total > 0)[..., None]
    return jnp.where(some, x, 0.0) / jnp.where(some, total[..., None], 1.0)


def empty_exponent() -> float:
    """The exponent of a state that has read nothing: below that of any key."""
    return -1e30  # no global number: of that a compiler would make a symbol, which no scan takes


def over_largest(
    key: Float[Array, "batch heads size features"], before: Float[Array, "batch heads"] | None
) -> tuple[Float[Array, "batch heads size features"], Float[Array, "batch heads"]]:
    """Φ(k) over the largest feature of these keys and those before, and the logarithm of that, from log φ(k)."""
    seen = key != -jnp.inf
    key = jnp.where(seen, key, empty_exponent())
    exponent = (
        key.sum(axis=(-2, -1)) + empty_exponent() if key.shape[-2] == 0 else jnp.amax(key, axis=(-2, -1))
    )
    exponent = exponent if before is None else jnp.maximum(before, exponent)
    return jnp.where(seen, jnp.exp(key - exponent[..., None, None]), 0.0), exponent
