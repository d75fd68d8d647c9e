"""Operations on heads: split, merge, repeat, top-k selection, and the result of a positional encoding."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import stable_order, with_rank
from torch_attention.checks import check_divisible, check_positive
from torch_attention.ops.softmax import at_least_float32


@checked
def split_heads(
    x: Float[Tensor, "batch length features"], head_dim: int
) -> Float[Tensor, "batch heads length head_dim"]:
    """Split the features into heads: head h holds features `h * head_dim` to `(h + 1) * head_dim - 1`."""
    check_divisible(features=x.shape[-1], head_dim=head_dim)
    return rearrange(x, "batch length (heads head_dim) -> batch heads length head_dim", head_dim=head_dim)


@checked
def merge_heads(
    heads: Float[Tensor, "batch heads length head_dim"],
) -> Float[Tensor, "batch length features"]:
    """Concatenate the heads along the features: the inverse of `split_heads`."""
    return rearrange(heads, "batch heads length head_dim -> batch length (heads head_dim)")


@checked
def repeat_heads(
    x: Float[Tensor, "... kv_heads length head_dim"], num_heads: int
) -> Float[Tensor, "... heads length head_dim"]:
    """Repeat key/value heads for grouped queries: query head h uses head `h // (num_heads // num_kv_heads)`."""
    if x.shape[-3] == num_heads:
        return x
    check_divisible(num_heads=num_heads, num_kv_heads=x.shape[-3])
    return repeat(x, "... g length d -> ... (g r) length d", r=num_heads // x.shape[-3])


@checked
def top_k_mask(
    scores: Float[Tensor, "*rows length"], k: int, mask: Bool[Tensor, "..."] | None = None
) -> Bool[Tensor, "*rows length"]:
    """Mask of the k largest scores of each row; of equal scores, the first one wins.

    No gradient flows through the selection.

    Args:
        scores: scores, compared in at least float32.
        k: number of scores to select; a row with fewer scores selects all.
        mask: boolean mask, True where a score may be selected, broadcast to `scores`; None for no mask.

    Raises:
        ValueError: `k` is below 1.
    """
    check_positive(k=k)
    scores = at_least_float32(scores)
    if mask is not None:
        mask = with_rank(mask, scores.ndim)
        scores = torch.where(mask, scores, -torch.inf)
    order = stable_order(-scores)  # *rows length, from the largest score on
    chosen = stable_order(order) < k  # *rows length
    return chosen if mask is None else chosen & mask


class Placed(NamedTuple):
    """Result of a positional encoding: position-encoded queries and keys, and a bias of the scores.

    Attributes:
        query: queries, `(batch, heads, query, head_dim)`, rotated or shifted by the positional encoding if it does so.
        key: keys, `(batch, kv_heads, key, head_dim)`, rotated or shifted likewise.
        bias: additive bias of the scaled scores, broadcast to `(batch, heads, query, key)`; None for none.
    """

    query: Float[Tensor, "batch heads query head_dim"]
    key: Float[Tensor, "batch kv_heads key head_dim"]
    bias: Float[Tensor, "..."] | None
