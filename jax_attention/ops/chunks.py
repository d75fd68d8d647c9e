"""A sequence in chunks: a few steps of a recurrence over matrices, instead of many over vectors."""

import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.ops.known import is_static


@checked
def split_chunks(
    x: Float[Array, "batch heads length *dim"], chunk_size: int, *, fill: float = 0.0
) -> Float[Array, "chunks batch heads size *dim"]:
    """Cut the sequence into chunks; what is missing in the last one is filled with `fill`.

    A sequence that is known to be shorter than `chunk_size` is one chunk of its own length.
    """
    batch, heads, length, *dim = x.shape
    if is_static(length):
        size = max(1, min(chunk_size, length))
        whole = size * max(1, -(-length // size))
    else:  # at least two positions are filled in: a compiler would make other programs for none and for one
        size = chunk_size
        whole = size * (length // size + 2)
    missing = jnp.full((batch, heads, whole - length, *dim), fill, dtype=x.dtype)
    return rearrange(jnp.concatenate([x, missing], axis=2), "b h (c size) ... -> c b h size ...", size=size)


@checked
def join_chunks(
    x: Float[Array, "chunks batch heads size dim"], length: int
) -> Float[Array, "batch heads length dim"]:
    """Lay the chunks behind each other again, without what was filled in: the inverse of `split_chunks`."""
    return rearrange(x, "c b h size d -> b h (c size) d")[:, :, :length]
