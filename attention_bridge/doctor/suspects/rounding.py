"""Precision lost: in the products, in all results, or in the weights before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np

from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.suspects.suspect import Suspect

PRECISIONS = {"bfloat16": ("bfloat16",), "float16": ("float16",), "TF32": ("tf32", "tf32 cut")}
WEIGHTS = ("float16", "bfloat16", "int8")
LARGEST_INT8 = 127


def coarse(port: Port, *, precisions: tuple[str, ...]) -> Iterator[Port]:
    """The factors of every product are rounded; or in a dtype of 16 bits all that the model holds and computes."""
    for precision in precisions:
        if precision != "float16":  # whose factors have the bits of TF32's
            yield replace(port, precision=precision)
        if precision in WEIGHTS:
            held = {
                name: _once(port, w, partial(cast, dtype=precision), precision)
                for name, w in port.weights.items()
            }
            memory = None if port.memory is None else cast(port.memory, precision)
            model = replace(port, precision=precision, stored=precision, memory=memory)
            yield replace(model, weights=held, x=cast(port.x, precision))


def coarse_weights(port: Port, *, dtype: str) -> Iterator[Port]:
    """The weights are rounded to a dtype: matrices alone, or everything; to int8 by rows, or with one scale each."""
    matrices = {name: w for name, w in port.weights.items() if w.ndim > 1}
    if dtype == "int8":
        forms = [
            {name: _once(port, w, partial(to_int8, axis=axis), axis) for name, w in matrices.items()}
            for axis in (-1, None)
        ]
    else:
        forms = [
            {name: _once(port, w, partial(cast, dtype=dtype), dtype) for name, w in chosen.items()}
            for chosen in (matrices, port.weights)
        ]
    for form in forms:
        if any(not np.array_equal(w, port.weights[name]) for name, w in form.items()):
            yield port.put(form)


def _once(port: Port, weight: Array, change: Callable[[Array], Array], name: object) -> Array:
    """A weight rounded, once for all ports that have it."""
    return port.keep((weight,), ("rounded", name), lambda: change(weight))


def cast(weight: Array, dtype: str) -> Array:
    """The nearest numbers that the dtype has; what is too large for float16 becomes infinite."""
    with np.errstate(over="ignore"):
        return weight.astype(getattr(ml_dtypes, dtype, dtype)).astype(np.float64)


def to_int8(weight: Array, axis: int | None) -> Array:
    """The nearest of 255 numbers, the largest of which is the largest weight of each row or of the whole matrix."""
    largest = np.abs(weight).max(axis=axis, keepdims=True)
    step = np.where(largest > 0, largest, 1.0) / LARGEST_INT8
    return np.rint(weight / step) * step


ROUNDED: tuple[Suspect, ...] = tuple(
    Suspect(
        f"weights in {dtype}",
        f"has its weights rounded to {dtype}",
        "give the port the weights in their own dtype",
        partial(coarse_weights, dtype=dtype),
    )
    for dtype in WEIGHTS
)

ROUNDING: tuple[Suspect, ...] = tuple(
    Suspect(
        f"{words} products",
        f"rounds as {words} products do",
        'ask for full precision: jax.default_matmul_precision("highest"), '
        'torch.set_float32_matmul_precision("highest")',
        partial(coarse, precisions=precisions),
    )
    for words, precisions in PRECISIONS.items()
)
