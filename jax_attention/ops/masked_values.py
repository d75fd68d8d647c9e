"""Protection against NaN and inf in masked keys and values: 0 · NaN is NaN, so a weight of zero is not enough.

In the reference implementation, a value has no influence on a query that does not attend to it (`finite`,
`spoiled_scores`, `spoiled_output`). Other implementations guarantee this only for keys that no query attends to, such
as padding and unwritten slots of a KV cache: `without_dead_keys` replaces them by zeros.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.ops.arrays import known_finite
from jax_attention.ops.call import Call
from jax_attention.ops.rules import reached_keys, visible_pairs


def finite(x: Float[Array, "... key dim"]) -> Float[Array, "... key dim"]:
    """Replace NaN and inf in `x` by 0."""
    return x if known_finite(x) else jnp.where(jnp.isfinite(x), x, 0.0)


def spoiled_scores(
    scores: Float[Array, "... query key"], key: Float[Array, "... key head_dim"], mask: Bool[Array, "..."]
) -> Float[Array, "... query key"]:
    """Scores of `finite` keys, set to NaN where a query attends to a key with NaN or inf."""
    if known_finite(key):
        return scores
    bad = ~jnp.isfinite(key).all(axis=-1)[..., None, :]  # ... heads 1 key
    # Adding keeps the memory layout of the scores; `where` would use the mask's, which changes later rounding.
    return scores + jnp.where(bad & mask, jnp.nan, 0.0)


def spoiled_output(
    output: Float[Array, "... query value_dim"],
    weights: Float[Array, "... query key"],
    value: Float[Array, "... key value_dim"],
) -> Float[Array, "... query value_dim"]:
    """Output from `finite` values, set to NaN where a nonzero weight meets a value with NaN or inf."""
    if known_finite(value):
        return output
    bad = ~jnp.isfinite(value).all(axis=-1)[..., None, :]  # ... heads 1 key
    return jnp.where(((weights != 0) & bad).any(axis=-1, keepdims=True), jnp.nan, output)


def ignoring_dead_keys(run: Callable[[Call], Array]) -> Callable[[Call], Array]:
    """Wrap an implementation so that keys and values masked for every query are replaced by zeros."""
    return lambda call: run(without_dead_keys(call))


def without_dead_keys(call: Call) -> Call:
    """Replace keys and values that no query of their batch element and head attends to by zeros."""
    alive = _alive(call)
    if alive is None:
        return call
    kv_heads = call.key.shape[-3]
    if alive.ndim > 1 and alive.shape[-2] > kv_heads:  # several query heads share a key/value head
        group = alive.shape[-2] // kv_heads
        alive = alive.reshape(*alive.shape[:-2], kv_heads, group, alive.shape[-1]).any(axis=-2)
    alive = alive[(None,) * (call.key.ndim - 1 - alive.ndim)][..., None]  # ... kv_heads|1 key|1 1
    return call._replace(key=jnp.where(alive, call.key, 0.0), value=jnp.where(alive, call.value, 0.0))


def _alive(call: Call) -> Bool[Array, "... key"] | None:
    """Mask of the keys that at least one query attends to; None if this is known to be all."""
    pairs, visibility = call.mask, call.visibility
    if call.bias is not None and not known_finite(call.bias):
        seen = call.bias != -jnp.inf
        pairs = seen if pairs is None else pairs & seen
    if visibility.is_total:
        return None if pairs is None else pairs.any(axis=-2)
    shape = (*call.query.shape[:-1], call.key.shape[-2])
    if pairs is None or (pairs.shape[-2] == 1 and visibility.query_segments is None):
        alive = None if pairs is None else pairs[..., 0, :]
        reached = reached_keys(visibility, shape)
        if alive is None or reached is None:
            return reached if alive is None else alive
        return alive & reached[(None,) * (alive.ndim - reached.ndim)]
    placed = visible_pairs(visibility, shape)
    return (pairs if placed is None else pairs & placed).any(axis=-2)
