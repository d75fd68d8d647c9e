"""Lost precision: in the products, in all results, or in the stored weights."""

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
    """Plant rounded factors in every product; for 16-bit dtypes also a whole model stored and run in that dtype."""
    for precision in precisions:
        if precision != "float16":  # factors in float16 have the bits of TF32
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
    """Plant rounded weights: matrices alone or all weights; in int8 with a scale per row or per matrix."""
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
    """Round a weight, once for all ports that share it."""
    return port.keep((weight,), ("rounded", name), lambda: change(weight))


def cast(weight: Array, dtype: str) -> Array:
    """Round to the nearest values of a dtype; values too large for float16 become infinite."""
    with np.errstate(over="ignore"):
        return weight.astype(getattr(ml_dtypes, dtype, dtype)).astype(np.float64)


def to_int8(weight: Array, axis: int | None) -> Array:
    """Round to 255 levels, scaled to the largest weight of each row (`axis=-1`) or of the matrix (`axis=None`)."""
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
        f"rounds like {words} matrix products",
        'use full precision: jax.default_matmul_precision("highest"), '
        'torch.set_float32_matmul_precision("highest")',
        partial(coarse, precisions=precisions),
    )
    for words, precisions in PRECISIONS.items()
)
