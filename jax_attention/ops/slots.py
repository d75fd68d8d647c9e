"""Arrays with slots: one for each token, of which only some are taken yet, or one for each sum."""

from math import prod

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped


def write_slots(
    x: Shaped[Array, "*batch slots dim"], new: Shaped[Array, "*batch new dim"], start: Int[Array, ""]
) -> Shaped[Array, "*batch slots dim"]:
    """`x` with `new` in the slots from `start` on; if that is beyond the end, in the last ones."""
    return lax.dynamic_update_slice_in_dim(x, new, start, axis=-2)


def sum_by_slot(
    x: Float[Array, "... query key"], slot: Int[Array, "... query key"], count: int
) -> Float[Array, "... query slots"]:
    """The sum over the keys of each slot, for each query; `slot` is broadcast against `x`."""
    rows = prod(x.shape[:-1])
    flat, slots = (y.reshape(rows, x.shape[-1]) for y in (x, jnp.broadcast_to(slot, x.shape)))
    sums = jax.vmap(lambda row, to: jnp.zeros(count, x.dtype).at[to].add(row))(flat, slots)
    return sums.reshape(*x.shape[:-1], count)
