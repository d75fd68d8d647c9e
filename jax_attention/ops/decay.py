"""Cumulative decay of recurrent states: products of decay factors, as exponentials of sums of their logarithms.

Each sum runs over the steps between two positions, and is never the difference of two longer sums. So there is no
cancellation, and with decay factors of at most 1 no exponential overflows, however fast the state decays.
"""

from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum, with_rank
from jax_attention.ops.arrays import is_static


@checked
def split_chunks(
    x: Float[Array, "batch heads length *dim"], chunk_size: int, *, fill: float = 0.0
) -> Float[Array, "chunks batch heads size *dim"]:
    """Split a sequence into chunks; the last one is padded with `fill`.

    A sequence that is known to be shorter than `chunk_size` becomes one chunk of its own length.
    """
    batch, heads, length, *dim = x.shape
    if is_static(length):
        size = max(1, min(chunk_size, length))
        whole = size * max(1, -(-length // size))
    else:  # pad by at least two positions, because a compiler specialises on sizes 0 and 1
        size = chunk_size
        whole = size * (length // size + 2)
    missing = jnp.full((batch, heads, whole - length, *dim), fill, dtype=x.dtype)
    return rearrange(jnp.concatenate([x, missing], axis=2), "b h (c size) ... -> c b h size ...", size=size)


@checked
def join_chunks(
    x: Float[Array, "chunks batch heads size dim"], length: int
) -> Float[Array, "batch heads length dim"]:
    """Concatenate chunks along the length and drop the padding: the inverse of `split_chunks`."""
    return rearrange(x, "c b h size d -> b h (c size) d")[:, :, :length]


@checked
def decay_matrix(log_decay: Float[Array, "... length"]) -> Float[Array, "... length length"]:
    """Decay factors between steps: row t, column s is exp(Σ_{s < r <= t} log_decay_r); 0 for s > t.

    Args:
        log_decay: logarithm of the decay factor of each step, at most 0.
    """
    length = log_decay.shape[-1]
    ones = jnp.ones((length, length), dtype=log_decay.dtype)
    steps = jnp.where(jnp.tril(ones, -1) > 0, log_decay[..., None], 0.0)  # ... length length
    between = jnp.cumsum(steps, axis=-2)  # row t, column s: the sum over the steps s + 1 to t
    return jnp.exp(jnp.where(jnp.tril(ones) > 0, between, -jnp.inf))


class DecayedProducts(NamedTuple):
    """Products and decay factors of one chunk, for a recurrent state that decays per feature.

    Attributes:
        products: `(..., length, length)`; row t, column s is the inner product of the read vector of step t with the
            written vector of step s, each feature decayed from s to t; 0 for s > t.
        since_start: `(..., length, dim)`, decay from the start of the chunk to each step, that step included.
        until_end: `(..., length, dim)`, decay from after each step to the end of the chunk.
    """

    products: Float[Array, "... length length"]
    since_start: Float[Array, "... length dim"]
    until_end: Float[Array, "... length dim"]


@checked
def decayed_products(
    read: Float[Array, "... length dim"],
    written: Float[Array, "... length dim"],
    log_decay: Float[Array, "... length dim"],
) -> DecayedProducts:
    """Compute Σ_d read_td written_sd exp(Σ_{s < r <= t} log_decay_rd) for all s <= t, by matrix products.

    Pairs of neighbouring blocks are merged, doubling the block length. Between the two blocks of a pair, the decay
    factors into one until the end of the earlier block and one since the start of the later block. So no array has
    two time axes and a feature axis.

    Args:
        read: vectors that read the state, of the shape of the other arrays, or with further leading axes.
        written: vectors that are written to the state.
        log_decay: logarithm of the decay factor of each step and feature, at most 0.
    """
    *leading, length, dim = log_decay.shape
    if not is_static(length) or length == 0:  # no next power of two
        return _products_of_all(read, written, log_decay)
    further = read.shape[: read.ndim - log_decay.ndim]
    # Flatten the leading axes: XLA's CPU kernels fail on arrays with very many axes.
    read = read.reshape(*further, -1, length, dim)
    written, log_decay = (with_rank(x.reshape(-1, length, dim), read.ndim) for x in (written, log_decay))
    whole = 1 << (length - 1).bit_length()  # the next power of two
    read, written, since = (_fill(x, whole) for x in (read, written, log_decay))  # ... whole dim
    until = jnp.zeros_like(since)  # ... whole dim
    products = (read * written).sum(-1)[..., None, None]  # ... blocks 1 1
    size = 1
    while size < whole:
        (_, later), (earlier, _) = _halves(read, size), _halves(written, size)  # ... pairs size dim
        (since_one, since_two), (until_one, until_two) = _halves(since, size), _halves(until, size)
        across = einsum(
            "...qd,...kd->...qk", later * jnp.exp(since_two), earlier * jnp.exp(until_one)
        )  # ... pairs size size
        one, two = products[..., 0::2, :, :], products[..., 1::2, :, :]  # ... pairs size size
        above = jnp.concatenate([one, jnp.zeros_like(across)], axis=-1)
        below = jnp.concatenate([across, two], axis=-1)
        products = jnp.concatenate([above, below], axis=-2)  # ... pairs 2·size 2·size
        since = _joined(since_one, since_one[..., -1:, :] + since_two)  # ... whole dim
        until = _joined(until_one + since_two[..., -1:, :], until_two)  # ... whole dim
        size = 2 * size
    return DecayedProducts(
        products[..., 0, :length, :length].reshape(*further, *leading, length, length),
        jnp.exp(since[..., :length, :]).reshape(*leading, length, dim),
        jnp.exp(until[..., :length, :]).reshape(*leading, length, dim),
    )


def _products_of_all(
    read: Float[Array, "... length dim"],
    written: Float[Array, "... length dim"],
    log_decay: Float[Array, "... length dim"],
) -> DecayedProducts:
    """`decayed_products` by definition, with an array that has two time axes and a feature axis."""
    by_feature = log_decay.swapaxes(-1, -2)  # ... dim length
    start = jnp.zeros_like(by_feature[..., :1])  # ... dim 1
    until = jnp.concatenate([by_feature[..., 1:], start], axis=-1)  # ... dim length
    until = jnp.flip(jnp.cumsum(jnp.flip(until, (-1,)), axis=-1), (-1,))
    return DecayedProducts(
        einsum("...td,...sd,...dts->...ts", read, written, decay_matrix(by_feature)),
        jnp.exp(jnp.cumsum(log_decay, axis=-2)),
        jnp.exp(until).swapaxes(-1, -2),
    )


def _fill(x: Float[Array, "... length dim"], whole: int) -> Float[Array, "... whole dim"]:
    *leading, length, dim = x.shape
    zeros = jnp.zeros((*leading, whole - length, dim), dtype=x.dtype)
    return jnp.concatenate([x, zeros], axis=-2)


def _halves(x: Float[Array, "... whole dim"], size: int) -> tuple[Array, Array]:
    pairs = rearrange(x, "... (pairs two size) d -> ... pairs two size d", two=2, size=size)
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def _joined(one: Float[Array, "... size dim"], two: Float[Array, "... size dim"]) -> Array:
    return rearrange(jnp.concatenate([one, two], axis=-2), "... pairs size d -> ... (pairs size) d")
