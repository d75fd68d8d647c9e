"""Arrays with a slot for each token, of which only some are taken yet."""

from jax import Array, lax
from jaxtyping import Int, Shaped


def write_slots(
    x: Shaped[Array, "*batch slots dim"], new: Shaped[Array, "*batch new dim"], start: Int[Array, ""]
) -> Shaped[Array, "*batch slots dim"]:
    """`x` with `new` in the slots from `start` on; if that is beyond the end, in the last ones."""
    return lax.dynamic_update_slice_in_dim(x, new, start, axis=-2)
