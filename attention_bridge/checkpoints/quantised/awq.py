"""AWQ weights of AutoAWQ with 4 bits (`quant_method` awq, `version` gemm).

A weight is `(code - zero[group]) * scales[group]`, rounded to the dtype of `scales`, then to the model's dtype.
transformers has no dequantisation of its own; the reference is AutoAWQ's `dequantize_gemm`.

| stored                                     | meaning                                                        |
|--------------------------------------------|----------------------------------------------------------------|
| `x.qweight`, int32 (in, out / 8)           | the codes, packed along the output features                    |
| `x.qzeros`, int32 (in / group, out / 8)    | the zeros, packed alike                                        |
| `x.scales`, float (in / group, out)        | the scales                                                     |

A word holds the codes of eight output features in the order 0, 2, 4, 6, 1, 3, 5, 7, the first one in the lowest
bits. The result is `x.weight`, (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention_bridge.checkpoints.quantised.logical import (
    FLOAT32,
    FLOATS,
    INT32,
    Dtype,
    Logical,
    Read,
    Stored,
    rounded,
    step,
)
from attention_bridge.checkpoints.quantised.settings import Settings

BITS, CODES = 4, 8  # of a code; codes in a word
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the features in a word
SIDECARS = ("qzeros", "scales")


def plan(stored: Stored, settings: Settings) -> Iterator[tuple[str, Logical]]:
    """Yield the name and description of each dequantised tensor.

    Args:
        stored: the stored tensors.
        settings: the `quantization_config`.

    Raises:
        CheckpointError: tensors are absent or have wrong shapes or dtypes, or the packing is unknown.
    """
    if settings.text("backend", default="auto") == "llm-awq":
        raise settings.fault("backend", "not llm-awq, whose packing is another one")
    told = "format" if settings.given.get("version") is None else "version"
    if settings.text(told, default="gemm") != "gemm":
        raise settings.fault(told, "gemm")
    if settings.whole("bits", "w_bit", default=BITS) != BITS:
        raise settings.fault("bits" if settings.given.get("bits") is not None else "w_bit", str(BITS))
    group = settings.whole("group_size", "q_group_size", default=128)
    for name in stored.specs:
        module, _, last = name.rpartition(".")
        if last in SIDECARS and f"{module}.qweight" not in stored.specs:
            raise stored.orphan(name, f"{module}.qweight")
        if last == "qweight":
            yield f"{module}.weight", _logical(stored, module, group)


def _logical(stored: Stored, module: str, told: int) -> Logical:
    weight, zeros, scales = (f"{module}.{last}" for last in ("qweight", *SIDECARS))
    shape = stored.need(weight, scales, [INT32]).shape
    if len(shape) != 2 or not all(shape):
        raise stored.fault(f"{weight} must have rows and columns, got {shape}")
    length, words = shape
    features = words * CODES
    group = length if told == -1 else told
    if group < 1 or length % group:
        raise stored.fault(f"{weight} must have whole groups of {group} input features, got {shape}")
    stored.need(zeros, weight, [INT32], (length // group, words))
    stored.need(scales, weight, FLOATS, (length // group, features))

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        packed, zero, factors = read(weight).T, _turned(read(zeros).T), read(scales).T
        result = np.empty((features, length), dtype)
        for start in range(0, words, step(CODES * length)):
            chosen = slice(start, start + step(CODES * length))
            rows = slice(chosen.start * CODES, chosen.stop * CODES)
            codes = _turned(packed[chosen]).astype(FLOAT32)
            codes -= np.repeat(zero[rows], group, axis=1)
            with np.errstate(all="ignore"):
                values = np.repeat(factors[rows].astype(FLOAT32), group, axis=1) * codes
            result[rows] = rounded(rounded(values, factors.dtype), dtype)
        return result

    return Logical((features, length), (weight, zeros, scales), compute)


def _turned(words: np.ndarray) -> np.ndarray:
    """The codes or zeros of transposed words, uint8 (out, in), in the order of the features."""
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = np.empty((len(words), CODES, words.shape[1]), np.uint8)
    for place, feature in enumerate(ORDER):
        codes[:, feature] = unsigned >> np.uint32(BITS * place) & np.uint32(15)
    return codes.reshape(-1, words.shape[1])
