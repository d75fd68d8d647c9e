"""The softmax of attention: over the keys that may be seen, and zero where there are none."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import check_broadcasts, check_sinks


@checked
def at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`x` in float32, or in float64 if it is that already: what sums and exponentials are computed in."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(wide)


@checked
def masked_softmax(
    scores: Float[Tensor, "... query key"], mask: Bool[Tensor, "#*axes"] | None = None
) -> Float[Tensor, "... query key"]:
    """Softmax over the visible keys, in at least float32.

    Args:
        scores: any real numbers.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.

    Returns:
        Weights that sum to one along the keys, exactly zero where masked; a row with no visible key is zero
        throughout, and so are its gradients.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is None:
        return torch.softmax(scores, dim=-1)
    # A finite fill, not -inf: a row of -inf alone would be NaN, forward and backward.
    scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return torch.where(mask, torch.softmax(scores, dim=-1), 0.0)


@checked
def masked_logsumexp(
    scores: Float[Tensor, "... query key"], mask: Bool[Tensor, "#*axes"] | None = None
) -> Float[Tensor, "... query"]:
    """The logarithm of the sum of the exponentials of the visible scores: what their softmax divides by.

    Args:
        scores: any real numbers.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.

    Returns:
        In at least float32; -inf with a gradient of zero where no key is visible.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    seen = (
        torch.ones_like(scores, dtype=torch.bool) if mask is None else torch.broadcast_to(mask, scores.shape)
    )
    alive = seen.any(dim=-1)
    scores = torch.where(seen, scores, -torch.inf)
    # A row of -inf alone would be NaN, forward and backward.
    scores = torch.where(alive[..., None], scores, 0.0)
    # Relative to itself, for its gradient may be rounded as its result is, which may be large.
    level = torch.logsumexp(scores, dim=-1, keepdim=True)
    level = torch.where(level == -torch.inf, 0.0, level)  # where there are no keys
    return torch.where(alive, torch.logsumexp(scores - level, dim=-1) + level[..., 0], -torch.inf)


@checked
def sink_softmax(
    scores: Float[Tensor, "*batch heads query key"],
    sinks: Float[Tensor, "heads"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch heads query key"]:
    """Softmax over the visible keys and a sink, without the share of the sink.

    Args:
        scores: any real numbers.
        sinks: the score of each head's sink.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.

    Returns:
        Weights in at least float32, exactly zero where masked; a row with no visible key is zero throughout, for
        all of it went into the sink.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    check_sinks(sinks, scores)
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is not None:
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    # A sink of -inf alone, where there are no keys, would be NaN.
    sinks = sinks.to(scores.dtype)
    sinks = torch.where(sinks == -torch.inf, torch.finfo(scores.dtype).min, sinks)
    sink = torch.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
    weights = torch.softmax(torch.concatenate([scores, sink], dim=-1), dim=-1)[..., :-1]
    return weights if mask is None else torch.where(mask, weights, 0.0)


@checked
def share_of_keys(
    log_sum: Float[Tensor, "*batch heads query"], sinks: Float[Tensor, "heads"]
) -> Float[Tensor, "*batch heads query"]:
    """The share of the weights that a sink leaves to the keys.

    Args:
        log_sum: as `masked_logsumexp` gives it, of the keys alone.
        sinks: the score of each head's sink.

    Returns:
        In at least float32; 0 where no key is visible.
    """
    log_sum = at_least_float32(log_sum)
    beyond = log_sum - torch.broadcast_to(sinks.to(log_sum.dtype)[:, None], log_sum.shape)
    # Where no key is visible the share is 0, also beside a sink of -inf.
    return torch.sigmoid(torch.where(log_sum > -torch.inf, beyond, -torch.inf))
