"""Checked arguments of an attention call, and the interface of its implementations."""

import math
from collections.abc import Callable, Sequence
from math import prod
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arrays import ARRAYS, INTEGERS, REALS, as_array, as_integers, check_array, is_integer
from torch_attention.checks import (
    align,
    check_attention,
    check_boolean,
    check_flag,
    check_floating,
    check_keep,
    check_sinks,
    check_window,
    dtype_name,
)
from torch_attention.ops.rules import Visibility, as_positions, reach, visible_pairs
from torch_attention.ranges import refuse


def check_bias(bias: Tensor | None) -> None:
    """Raise TypeError unless `bias` is None or floating point; a boolean array belongs in `mask`."""
    if bias is None:
        return
    check_array("bias", bias)
    if dtype_name(bias) == "bool":
        raise TypeError("bias must be floating point, got bool; a boolean mask goes in mask")
    check_floating("bias", bias)


def check_offset(query_offset: Any, batch: Sequence[int]) -> None:
    """Raise unless `query_offset` is an integer, or an integer array of rank 0 or of shape `(batch,)`."""
    x = query_offset
    if isinstance(x, ARRAYS):
        if not is_integer(x):
            raise TypeError(f"query_offset must be an integer, got dtype {dtype_name(x)}")
        if x.ndim:
            check_integers("query_offset", x, "batch", batch)
    elif isinstance(x, bool) or not isinstance(x, INTEGERS):
        refuse("query_offset", "an integer", x)


def check_integers(name: str, x: Any, axes: str, shape: Sequence[int]) -> None:
    """Raise unless `x` is None or an integer array of that shape; batch axes may have size 1."""
    if x is None:
        return
    check_array(name, x)
    if not is_integer(x):
        raise TypeError(f"{name} must hold integers, got {dtype_name(x)}")
    count = len(shape) - axes.count(",")  # of batch axes
    fits = len(x.shape) == len(shape) and all(
        size == whole or (size == 1 and i < count)
        for i, (size, whole) in enumerate(zip(x.shape, shape, strict=True))
    )
    if not fits:
        raise ValueError(f"{name} must have shape ({axes}) = {tuple(shape)}, got {tuple(x.shape)}")


def check_segments(query_segments: Any, key_segments: Any) -> None:
    """Raise ValueError unless queries and keys both have segments, or neither."""
    if (query_segments is None) != (key_segments is None):
        raise ValueError(
            "query_segments and key_segments must be given together where queries and keys differ in length"
        )


def check_reach(window: Any, is_causal: bool) -> None:
    """Raise unless `window` is None, a number of keys, or a pair (before, after)."""
    if not isinstance(window, tuple | list):
        check_window(window, is_causal)
        return
    if len(window) != 2:
        raise ValueError(f"window must be an integer or a pair (before, after), got {window!r}")
    for side in window:
        if side is not None and (isinstance(side, bool) or not isinstance(side, Integral)):
            raise TypeError(f"window must hold integers, or None for no limit, got {window!r}")
        if side is not None and int(side) < 0:
            raise ValueError(f"window must count at least 0 keys before and after the query, got {window!r}")


def check_scoring(scale: Any, softcap: Any) -> None:
    """Raise unless `scale` and `softcap` have valid types and ranges."""
    check_number("scale", scale)
    check_number("softcap", softcap)
    if isinstance(softcap, Real) and not float(softcap) > 0:
        raise ValueError(f"softcap must be above 0, got {softcap}")


def check_number(name: str, x: Any) -> None:
    """Raise unless `x` is None, a finite number, or a floating-point array of rank 0."""
    if x is None:
        return
    if isinstance(x, ARRAYS):
        check_floating(name, x)
        if x.ndim:
            raise ValueError(f"{name} must have rank 0, got shape {tuple(x.shape)}")
    elif isinstance(x, bool) or not isinstance(x, REALS):
        refuse(name, "a number", x)
    elif isinstance(x, Real) and not -math.inf < x < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} must be finite, got {x}")


def check_dropout(dropout_keep: Tensor | None, dropout_rate: Any, shape: Sequence[int]) -> None:
    """Raise unless `dropout_keep` has the shape of the weights, and `dropout_rate` is in [0, 1) and 0 without it."""
    if isinstance(dropout_rate, bool) or not isinstance(dropout_rate, Real):
        refuse("dropout_rate", "a number", dropout_rate)
    if not 0.0 <= float(dropout_rate) < 1.0:
        raise ValueError(f"dropout_rate must be at least 0 and below 1, got {dropout_rate}")
    check_keep(dropout_keep, shape)
    if dropout_keep is None and dropout_rate:
        raise ValueError(
            f"dropout_rate needs dropout_keep, the dropout mask, got dropout_rate={dropout_rate} alone"
        )


class Call(NamedTuple):
    """The arguments of `dot_product_attention`, checked and resolved by `checked_call`."""

    query: Float[Tensor, "*batch heads query head_dim"]
    key: Float[Tensor, "*batch kv_heads key head_dim"]
    value: Float[Tensor, "*batch kv_heads key value_dim"]
    bias: Float[Tensor, "..."] | None
    mask: Bool[Tensor, "..."] | None
    visibility: Visibility
    scale: float
    softcap: float | None
    sinks: Float[Tensor, "heads"] | None
    dropout_keep: Bool[Tensor, "..."] | None
    dropout_rate: float
    return_logsumexp: bool


def checked_call(
    query: Float[Tensor, "*batch heads query head_dim"],
    key: Float[Tensor, "..."],
    value: Float[Tensor, "..."],
    bias: Float[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    query_offset: int | Int[Tensor, "..."] = 0,
    query_lengths: Int[Tensor, "..."] | None = None,
    key_lengths: Int[Tensor, "..."] | None = None,
    query_segments: Int[Tensor, "..."] | None = None,
    key_segments: Int[Tensor, "..."] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, "heads"] | None = None,
    dropout_keep: Bool[Tensor, "..."] | None = None,
    dropout_rate: float = 0.0,
    return_logsumexp: bool = False,
) -> Call:
    """Check and resolve the arguments of an attention call; the only place where this is done.

    Args:
        query, key, value, bias, mask, is_causal, window, query_offset, query_lengths, key_lengths, query_segments,
            key_segments, scale, softcap, sinks, dropout_keep, dropout_rate, return_logsumexp: as in
            `dot_product_attention`.

    Returns:
        The call, with the default scale filled in, mask and bias with the rank of the scores, keys and values with the
        batch of the queries, and zeros for the padding queries of `query_lengths`.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes do not match, or a number is out of range.
    """
    check_array("value", value)
    check_attention(query, key, value)
    check_flag(is_causal=is_causal, return_logsumexp=return_logsumexp)
    check_reach(window, is_causal)
    shape = (*query.shape[:-1], key.shape[-2])
    *batch, _, query_len, key_len = shape
    check_offset(query_offset, batch)
    check_integers("query_lengths", query_lengths, "batch", batch)
    check_integers("key_lengths", key_lengths, "batch", batch)
    if key_segments is None and query_len == key_len:
        key_segments = query_segments
    check_segments(query_segments, key_segments)
    check_integers("query_segments", query_segments, "batch, query", (*batch, query_len))
    check_integers("key_segments", key_segments, "batch, key", (*batch, key_len))
    check_scoring(scale, softcap)
    check_bias(bias)
    if mask is not None:
        check_boolean("mask", mask)
        mask = align("mask", as_array(mask), shape)
    if bias is not None:
        bias = align("bias", as_array(bias), shape)
    check_sinks(sinks, query)
    sinks = None if sinks is None else as_array(sinks)
    check_dropout(dropout_keep, dropout_rate, shape)
    query, key, value = as_array(query), as_array(key), as_array(value)
    if key.shape[:-3] != query.shape[:-3]:
        key = _for_all(key, query)
    if value.shape[:-3] != query.shape[:-3]:
        value = _for_all(value, query)
    visibility = Visibility(
        *reach(is_causal, window, _offset(query_offset, batch)),
        *(_one_batch(x, batch, as_positions) for x in (query_lengths, key_lengths)),
        *(_one_batch(x, batch) for x in (query_segments, key_segments)),
    )
    if visibility.query_lengths is not None:
        query = _up_to(query, visibility.query_lengths)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    options = visibility, scale, softcap, sinks, dropout_keep, dropout_rate, return_logsumexp
    return Call(query, key, value, bias, mask, *options)


def _for_all(x: Tensor, query: Tensor) -> Tensor:
    """Broadcast keys or values with a batch of 1 to the batch of the queries."""
    return torch.broadcast_to(x, (*query.shape[:-3], *x.shape[-3:]))


def _one_batch(
    x: Int[Tensor, "..."] | None,
    batch: Sequence[int],
    converted: Callable[[Tensor], Tensor] = as_integers,
) -> Int[Tensor, "..."] | None:
    """Broadcast integers to every batch element, with all batch axes flattened into one."""
    if x is None:
        return None
    own = x.shape[len(batch) :]
    return torch.broadcast_to(converted(x), (*batch, *own)).reshape(prod(batch), *own)


def _offset(x: Any, batch: Sequence[int]) -> Any:
    """Return one offset for all batch elements unchanged, or one per batch element, flattened."""
    if isinstance(x, Integral):
        return int(x)
    if not isinstance(x, ARRAYS):
        return x
    return _one_batch(x, batch, as_positions) if x.ndim else as_positions(x)


def _up_to(query: Tensor, lengths: Int[Tensor, "batch"]) -> Tensor:
    """Set the padding queries, beyond the length of each batch element, to zero."""
    there = visible_pairs(Visibility(query_lengths=lengths), (*query.shape[:-1], 1), device=query.device)
    return query if there is None else torch.where(there, query, 0.0)


class Implementation(NamedTuple):
    """An implementation of `dot_product_attention`.

    Attributes:
        name: name for the argument `implementation`.
        refusal: function that returns one sentence on why a call is not supported, or None if it is.
        run: function that computes the output; with `Call.return_logsumexp`, a pair of output and logsumexp.
    """

    name: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], Any]
