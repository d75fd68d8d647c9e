"""Choosing keys: the same choice in both frameworks, down to ties."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import stable_order, with_rank
from torch_attention.checks import check_positive
from torch_attention.ops.softmax import at_least_float32


@checked
def top_k_mask(
    scores: Float[Tensor, "*rows length"], k: int, mask: Bool[Tensor, "..."] | None = None
) -> Bool[Tensor, "*rows length"]:
    """True at the k largest scores of each row; of equal scores the first is taken first.

    No gradient flows through a choice.

    Args:
        scores: compared in at least float32.
        k: how many to choose; a row that has fewer gives all it has.
        mask: True where a score may be chosen; broadcast against `scores`.

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
