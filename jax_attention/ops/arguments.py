"""What an attention call refuses of its options, in one clear sentence, before any arithmetic."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from jax import Array

from jax_attention.arrays import ARRAYS, INTEGERS, REALS, check_array, is_integer
from jax_attention.checks import check_floating, check_keep, check_window, dtype_name
from jax_attention.ranges import refuse


def check_bias(bias: Array | None) -> None:
    """Raise TypeError unless `bias` holds floating-point numbers; a boolean array is a mask."""
    if bias is None:
        return
    check_array("bias", bias)
    if dtype_name(bias) == "bool":
        raise TypeError("bias must be floating point, got bool; a boolean mask goes in mask")
    check_floating("bias", bias)


def check_offset(query_offset: Any, batch: Sequence[int]) -> None:
    """Raise unless `query_offset` is an integer, or an array of one for all or of one for each batch element."""
    x = query_offset
    if isinstance(x, ARRAYS):
        if not is_integer(x):
            raise TypeError(f"query_offset must be an integer, got dtype {dtype_name(x)}")
        if x.ndim:
            check_integers("query_offset", x, "batch", batch)
    elif isinstance(x, bool) or not isinstance(x, INTEGERS):
        refuse("query_offset", "an integer", x)


def check_integers(name: str, x: Any, axes: str, shape: Sequence[int]) -> None:
    """Raise unless `x` is None or an array of integers of that shape; an axis of the batch may have size 1."""
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
    """Raise unless `window` counts keys backwards from the query, or on both sides of it as a pair."""
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
    """Raise unless the options that decide the scores have their types and ranges."""
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


def check_dropout(dropout_keep: Array | None, dropout_rate: Any, shape: Sequence[int]) -> None:
    """Raise unless `dropout_keep` fits the weights and `dropout_rate` is the rate that it was sampled with."""
    if isinstance(dropout_rate, bool) or not isinstance(dropout_rate, Real):
        refuse("dropout_rate", "a number", dropout_rate)
    if not 0.0 <= float(dropout_rate) < 1.0:
        raise ValueError(f"dropout_rate must be at least 0 and below 1, got {dropout_rate}")
    check_keep(dropout_keep, shape)
    if dropout_keep is None and dropout_rate:
        raise ValueError(
            f"dropout_rate needs dropout_keep, the dropout mask, got dropout_rate={dropout_rate} alone"
        )
