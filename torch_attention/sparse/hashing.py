"""Buckets, visibility and weighted means of LSH attention, with and without the full score matrix.

`lsh_attention_weights` is the reference implementation with a matrix of all pairs; `lsh_attention` computes only the
pairs within chunks. See `lsh` for the mechanism.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum, take_along, with_rank
from torch_attention.layers import Dropout
from torch_attention.ops import at_least_float32, dot_product_scores, masked_softmax


@checked
def lsh_buckets(
    x: Float[Tensor, "batch heads length head_dim"],
    rotations: Float[Tensor, "heads head_dim rounds half"],
    mask: Bool[Tensor, "#batch 1 1 length"] | None = None,
) -> Int[Tensor, "batch heads rounds length"]:
    """Assign each position to the bucket of the nearest axis after rotation, in each round.

    Equal vectors fall into the same bucket. Masked positions fall into an extra bucket, the last.
    """
    x = at_least_float32(x)
    rotated = einsum("bhnd,hdrm->bhrnm", x, rotations.to(x.dtype))
    buckets = torch.argmax(
        torch.concatenate([rotated, -rotated], dim=-1), dim=-1
    )  # batch heads rounds length
    return buckets if mask is None else torch.where(mask, buckets, 2 * rotations.shape[-1])


@checked
def meetings(
    query_chunk: Int[Tensor, "... rounds query"],
    key_chunk: Int[Tensor, "... rounds key"],
    num_chunks: int,
    *,
    circular: bool,
) -> Int[Tensor, "... query key"]:
    """Count over all rounds how often a query attends to a key, given their chunks in each round."""
    query, key = query_chunk[..., :, None], key_chunk[..., None, :]
    seen = (key == query).sum(-3) + (key == query - 1).sum(-3)  # ... query key
    if circular:
        before = torch.roll(key, 1, -3)  # ... rounds 1 key
        seen = seen + ((query == 0) & (before == num_chunks - 1)).sum(-3)
    return seen


@checked
def lsh_attention_weights(
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    chunk: Int[Tensor, "batch heads rounds length"],
    mask: Bool[Tensor, "#batch 1 1 length"] | None = None,
    *,
    num_chunks: int,
    is_causal: bool,
    circular: bool,
    count_repeats: bool,
) -> Float[Tensor, "batch heads length length"]:
    """Reference attention weights: one softmax over all keys that share a chunk with the query in any round.

    `lsh_attention` computes the same result as an average of the rounds weighted by their normalisers.

    Args:
        query: queries, `(batch, heads, length, head_dim)`.
        key: keys, `(batch, heads, length, head_dim)`.
        chunk: chunk of each position after sorting, in each round.
        mask: boolean mask, `(batch, 1, 1, length)`, True for visible keys; None for no mask.
        num_chunks: number of chunks in a round.
        is_causal, circular, count_repeats: as in `LSHAttention`.
    """
    counts = meetings(chunk, chunk, num_chunks, circular=circular)  # batch heads length length
    scores, seen = dot_product_scores(query, key, None, mask, is_causal=is_causal)
    seen = counts > 0 if seen is None else seen & (counts > 0)
    itself = with_rank(torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device), scores.ndim)
    alone = ~(seen & ~itself).any(dim=-1, keepdim=True)  # batch heads length 1
    if count_repeats:
        scores = scores + torch.log(torch.clip(counts, min=1).to(scores.dtype))
    return masked_softmax(scores, seen & (alone | ~itself))


@checked
def lsh_attention(
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    order: Int[Tensor, "batch heads rounds length"],
    mask: Bool[Tensor, "#batch 1 1 length"] | None = None,
    *,
    num_chunks: int,
    is_causal: bool,
    circular: bool,
    count_repeats: bool,
    dropout: Dropout | None = None,
    dropout_keep: Bool[Tensor, "batch heads length length"] | None = None,
) -> Float[Tensor, "batch heads length head_dim"]:
    """Compute LSH attention chunk by chunk, without a matrix of all pairs.

    Args:
        value: values, `(batch, heads, length, head_dim)`.
        order: positions in sorted order, in each round.
        query, key, mask, num_chunks, is_causal, circular, count_repeats: as in `lsh_attention_weights`.
        dropout: dropout module that samples a new mask in each round; None for no dropout.
        dropout_keep: boolean dropout mask, True keeps; used in all rounds instead of sampling.
    """
    rounds, length = order.shape[2:]
    size = length // num_chunks
    rank = torch.argsort(order, dim=-1)  # batch heads rounds length
    place = rearrange(order, "b h r n -> b h (r n)")

    def gather(x: Tensor) -> Tensor:
        """Sort the elements and split them into chunks: (batch, heads, rounds * chunks, size, features)."""
        found = take_along(x, place[..., None], 2)
        return rearrange(found, "b h (c m) d -> b h c m d", m=size)

    def look_back(x: Tensor) -> Tensor:
        """Prepend the previous chunk to each chunk."""
        return torch.concatenate([torch.roll(x, 1, 2), x], dim=3)

    query, key, value = map(at_least_float32, (query, key, value))
    chunk = rearrange(rank // size, "b h r n -> b h n r")
    query_chunk = rearrange(gather(chunk), "b h c m r -> b h c r m")
    key_chunk = rearrange(look_back(gather(chunk)), "b h c k r -> b h c r k")
    counts = meetings(query_chunk, key_chunk, num_chunks, circular=circular)  # batch heads chunks size 2*size
    here = rearrange(place, "b h (c m) -> b h c m", m=size)
    position, key_position = here[..., None], look_back(here)[..., None, :]
    seen = key_position != position  # batch heads chunks size 2*size
    if is_causal:
        seen = seen & (key_position < position)
    if mask is not None:
        seen = seen & rearrange(
            look_back(gather(rearrange(mask, "b x y n -> b x n y"))), "b h c k y -> b h c y k"
        )
    if not circular:
        first = torch.arange(rounds * num_chunks, device=order.device) % num_chunks == 0
        back = torch.arange(2 * size, device=order.device) < size
        seen = seen & ~(first[:, None, None] & back[None, None])[None, None]

    scores = einsum("bhcmd,bhckd->bhcmk", gather(query), look_back(gather(key)))
    scores = scores * query.shape[-1] ** -0.5
    if not count_repeats:
        scores = scores - torch.log(torch.clip(counts, min=1).to(scores.dtype))
    weights, offered = masked_softmax(scores, seen), look_back(gather(value))
    if dropout is not None:
        keep = None if dropout_keep is None else pairs_of(dropout_keep, position, key_position)
        weights = dropout(weights, keep)
    heads = einsum("bhcmk,bhckd->bhcmd", weights, offered)
    total = torch.logsumexp(torch.where(seen, scores, torch.finfo(scores.dtype).min), dim=-1)

    def scatter(x: Tensor) -> Tensor:
        """Restore the order of the sequence: (batch, heads, rounds, length, features)."""
        return take_along(rearrange(x, "b h (r c) m d -> b h r (c m) d", r=rounds), rank[..., None], 3)

    met = rearrange(scatter(seen.any(dim=-1, keepdim=True)), "b h r n y -> b h n (r y)")
    share = masked_softmax(rearrange(scatter(total[..., None]), "b h r n y -> b h n (r y)"), met)
    output = einsum("bhnr,bhrnd->bhnd", share, scatter(heads))  # batch heads length head_dim
    alone = ~met.any(dim=-1, keepdim=True)  # batch heads length 1
    if mask is not None:
        alone = alone & rearrange(mask, "b x y n -> b x n y")
    if dropout is not None:
        here = torch.arange(length, device=order.device)[None, None, :, None]  # 1 1 length 1
        keep = None if dropout_keep is None else pairs_of(dropout_keep, here, here)
        share = dropout(torch.ones_like(alone, dtype=value.dtype), keep)
        value = share * value
    return torch.where(alone, value, output)


def pairs_of(
    x: Bool[Tensor, "batch heads query key"],
    query: Int[Tensor, "..."],
    key: Int[Tensor, "..."],
) -> Bool[Tensor, "..."]:
    """Gather elements of `x` for pairs of query and key indices, per batch element and head."""
    batch, heads = (torch.arange(size, device=x.device) for size in x.shape[:2])
    after = (None,) * (query.ndim - 2)
    return x[batch[(slice(None), None, *after)], heads[(None, slice(None), *after)], query, key]
