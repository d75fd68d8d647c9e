"""Cumulative decay of recurrent states: products of decay factors, as exponentials of sums of their logarithms.

Each sum runs over the steps between two positions, and is never the difference of two longer sums. So there is no
cancellation, and with decay factors of at most 1 no exponential overflows, however fast the state decays.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum, with_rank
from torch_attention.ops.arrays import is_static


@checked
def split_chunks(
    x: Float[Tensor, "batch heads length *dim"], chunk_size: int, *, fill: float = 0.0
) -> Float[Tensor, "chunks batch heads size *dim"]:
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
    missing = torch.full((batch, heads, whole - length, *dim), fill, dtype=x.dtype, device=x.device)
    return rearrange(torch.concatenate([x, missing], dim=2), "b h (c size) ... -> c b h size ...", size=size)


@checked
def join_chunks(
    x: Float[Tensor, "chunks batch heads size dim"], length: int
) -> Float[Tensor, "batch heads length dim"]:
    """Concatenate chunks along the length and drop the padding: the inverse of `split_chunks`."""
    return rearrange(x, "c b h size d -> b h (c size) d")[:, :, :length]


@checked
def decay_matrix(log_decay: Float[Tensor, "... length"]) -> Float[Tensor, "... length length"]:
    """Decay factors between steps: row t, column s is exp(Σ_{s < r <= t} log_decay_r); 0 for s > t.

    Args:
        log_decay: logarithm of the decay factor of each step, at most 0.
    """
    length = log_decay.shape[-1]
    ones = torch.ones((length, length), dtype=log_decay.dtype, device=log_decay.device)
    steps = torch.where(torch.tril(ones, -1) > 0, log_decay[..., None], 0.0)  # ... length length
    between = torch.cumsum(steps, dim=-2)  # row t, column s: the sum over the steps s + 1 to t
    return torch.exp(torch.where(torch.tril(ones) > 0, between, -torch.inf))


class DecayedProducts(NamedTuple):
    """Products and decay factors of one chunk, for a recurrent state that decays per feature.

    Attributes:
        products: `(..., length, length)`; row t, column s is the inner product of the read vector of step t with the
            written vector of step s, each feature decayed from s to t; 0 for s > t.
        since_start: `(..., length, dim)`, decay from the start of the chunk to each step, that step included.
        until_end: `(..., length, dim)`, decay from after each step to the end of the chunk.
    """

    products: Float[Tensor, "... length length"]
    since_start: Float[Tensor, "... length dim"]
    until_end: Float[Tensor, "... length dim"]


@checked
def decayed_products(
    read: Float[Tensor, "... length dim"],
    written: Float[Tensor, "... length dim"],
    log_decay: Float[Tensor, "... length dim"],
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
    until = torch.zeros_like(since)  # ... whole dim
    products = (read * written).sum(-1)[..., None, None]  # ... blocks 1 1
    size = 1
    while size < whole:
        (_, later), (earlier, _) = _halves(read, size), _halves(written, size)  # ... pairs size dim
        (since_one, since_two), (until_one, until_two) = _halves(since, size), _halves(until, size)
        across = einsum(
            "...qd,...kd->...qk", later * torch.exp(since_two), earlier * torch.exp(until_one)
        )  # ... pairs size size
        one, two = products[..., 0::2, :, :], products[..., 1::2, :, :]  # ... pairs size size
        above = torch.concatenate([one, torch.zeros_like(across)], dim=-1)
        below = torch.concatenate([across, two], dim=-1)
        products = torch.concatenate([above, below], dim=-2)  # ... pairs 2·size 2·size
        since = _joined(since_one, since_one[..., -1:, :] + since_two)  # ... whole dim
        until = _joined(until_one + since_two[..., -1:, :], until_two)  # ... whole dim
        size = 2 * size
    return DecayedProducts(
        products[..., 0, :length, :length].reshape(*further, *leading, length, length),
        torch.exp(since[..., :length, :]).reshape(*leading, length, dim),
        torch.exp(until[..., :length, :]).reshape(*leading, length, dim),
    )


def _products_of_all(
    read: Float[Tensor, "... length dim"],
    written: Float[Tensor, "... length dim"],
    log_decay: Float[Tensor, "... length dim"],
) -> DecayedProducts:
    """`decayed_products` by definition, with an array that has two time axes and a feature axis."""
    by_feature = log_decay.swapaxes(-1, -2)  # ... dim length
    start = torch.zeros_like(by_feature[..., :1])  # ... dim 1
    until = torch.concatenate([by_feature[..., 1:], start], dim=-1)  # ... dim length
    until = torch.flip(torch.cumsum(torch.flip(until, (-1,)), dim=-1), (-1,))
    return DecayedProducts(
        einsum("...td,...sd,...dts->...ts", read, written, decay_matrix(by_feature)),
        torch.exp(torch.cumsum(log_decay, dim=-2)),
        torch.exp(until).swapaxes(-1, -2),
    )


def _fill(x: Float[Tensor, "... length dim"], whole: int) -> Float[Tensor, "... whole dim"]:
    *leading, length, dim = x.shape
    zeros = torch.zeros((*leading, whole - length, dim), dtype=x.dtype, device=x.device)
    return torch.concatenate([x, zeros], dim=-2)


def _halves(x: Float[Tensor, "... whole dim"], size: int) -> tuple[Tensor, Tensor]:
    pairs = rearrange(x, "... (pairs two size) d -> ... pairs two size d", two=2, size=size)
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def _joined(one: Float[Tensor, "... size dim"], two: Float[Tensor, "... size dim"]) -> Tensor:
    return rearrange(torch.concatenate([one, two], dim=-2), "... pairs size d -> ... (pairs size) d")
