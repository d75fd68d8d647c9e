"""Masked softmax and logsumexp of attention scores, with zero weights for fully masked rows."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import check_broadcasts, check_sinks


@checked
def at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Convert `x` to float32, the precision of sums and exponentials; float64 stays float64."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(wide)


@checked
def masked_softmax(
    scores: Float[Tensor, "... query key"], mask: Bool[Tensor, "#*axes"] | None = None
) -> Float[Tensor, "... query key"]:
    """Softmax over the visible keys, in at least float32.

    Args:
        scores: any real numbers.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights that sum to one along the keys, exactly zero where masked. Fully masked rows are all zero, and so are
        their gradients.

    Raises:
        TypeError: the scores are not floating point, or the mask is not boolean.
        ValueError: shapes do not match.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is None:
        return torch.softmax(scores, dim=-1)
    # A finite fill value: a row of only -inf would give NaN, forward and backward.
    scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return torch.where(mask, torch.softmax(scores, dim=-1), 0.0)


@checked
def masked_logsumexp(
    scores: Float[Tensor, "... query key"], mask: Bool[Tensor, "#*axes"] | None = None
) -> Float[Tensor, "... query"]:
    """Logsumexp over the visible keys: the logarithm of the denominator of their softmax.

    Args:
        scores: any real numbers.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Logsumexp in at least float32; -inf with a gradient of zero for fully masked rows.

    Raises:
        TypeError: the scores are not floating point, or the mask is not boolean.
        ValueError: shapes do not match.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    seen = (
        torch.ones_like(scores, dtype=torch.bool) if mask is None else torch.broadcast_to(mask, scores.shape)
    )
    alive = seen.any(dim=-1)
    scores = torch.where(seen, scores, -torch.inf)
    # A row of only -inf would give NaN, forward and backward.
    scores = torch.where(alive[..., None], scores, 0.0)
    # Relative to itself, so that a large result does not cost digits in the gradient.
    level = torch.logsumexp(scores, dim=-1, keepdim=True)
    level = torch.where(level == -torch.inf, 0.0, level)  # rows without keys
    return torch.where(alive, torch.logsumexp(scores - level, dim=-1) + level[..., 0], -torch.inf)


@checked
def sink_softmax(
    scores: Float[Tensor, "*batch heads query key"],
    sinks: Float[Tensor, "heads"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch heads query key"]:
    """Softmax over the visible keys and an attention sink, without the weight of the sink.

    Args:
        scores: any real numbers.
        sinks: score of the sink of each head, `(heads,)`.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights in at least float32, exactly zero where masked. Fully masked rows are all zero, because the sink takes
        all their weight.

    Raises:
        TypeError: the scores are not floating point, or the mask is not boolean.
        ValueError: shapes do not match.
    """
    check_sinks(sinks, scores)
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is not None:
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    # A sink of -inf would give NaN in a row without keys.
    sinks = sinks.to(scores.dtype)
    sinks = torch.where(sinks == -torch.inf, torch.finfo(scores.dtype).min, sinks)
    sink = torch.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
    weights = torch.softmax(torch.concatenate([scores, sink], dim=-1), dim=-1)[..., :-1]
    return weights if mask is None else torch.where(mask, weights, 0.0)


@checked
def share_of_keys(
    log_sum: Float[Tensor, "*batch heads query"], sinks: Float[Tensor, "heads"]
) -> Float[Tensor, "*batch heads query"]:
    """Total weight of the keys beside an attention sink.

    Args:
        log_sum: logsumexp of the keys without the sink, as returned by `masked_logsumexp`.
        sinks: score of the sink of each head, `(heads,)`.

    Returns:
        Total weight in [0, 1], in at least float32; 0 for fully masked rows.
    """
    log_sum = at_least_float32(log_sum)
    beyond = log_sum - torch.broadcast_to(sinks.to(log_sum.dtype)[:, None], log_sum.shape)
    # 0 for fully masked rows, even with a sink of -inf.
    return torch.sigmoid(torch.where(log_sum > -torch.inf, beyond, -torch.inf))
