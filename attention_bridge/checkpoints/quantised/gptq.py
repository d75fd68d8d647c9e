"""GPTQ weights of AutoGPTQ, GPTQModel and Optimum (`quant_method` gptq), with 2, 3, 4 or 8 bits.

A weight is `scales[group] * (code - zero[group])`, rounded to the dtype of `scales`, then to the model's dtype.
transformers has no dequantisation of its own; the reference is GPTQModel's `dequantize_weight`.

| stored                                        | meaning                                                     |
|-----------------------------------------------|-------------------------------------------------------------|
| `x.qweight`, int32 (in * bits / 32, out)      | the codes, packed along the input features                  |
| `x.qzeros`, int32 (groups, out * bits / 32)   | the zeros, packed along the output features                 |
| `x.scales`, float (groups, out)               | the scales                                                  |
| `x.g_idx`, int32 (in,)                        | group of each input feature; if absent, groups in order     |

The result is `x.weight`, (out, in). Checkpoints of format `gptq` (version 1) store each zero less one, modulo
2 ** bits; checkpoints of format `gptq_v2` store the zero itself. GPTQModel (as `meta.quantizer` says) subtracts a
constant from each packed word instead, so that a zero of 0 borrows from its neighbours; that is undone alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
from attention_bridge.checkpoints.quantised.packing import WORD, count, unpack
from attention_bridge.checkpoints.quantised.settings import Settings

BITS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")
SIDECARS = ("qzeros", "scales", "g_idx")
# GPTQModel adds these to the words in turn when it reads version 1. For 3 bits that is not one to each zero.
WORDS = {2: [0x55555555], 3: [0x24924924, 0x92492492, 0x49249249], 4: [0x11111111], 8: [0x01010101]}


class Packing(NamedTuple):
    """How a checkpoint is packed.

    Attributes:
        bits: bits of a code; None where they differ between modules.
        group_size: input features of a group; -1 for all.
        offset: how version 1 stores zeros: "each" for zeros less one, "words" for GPTQModel's constants; "none" for
            version 2.
    """

    bits: int | None
    group_size: int
    offset: str


def plan(stored: Stored, settings: Settings) -> Iterator[tuple[str, Logical]]:
    """Yield the name and description of each dequantised tensor.

    Args:
        stored: the stored tensors.
        settings: the `quantization_config`.

    Raises:
        CheckpointError: tensors are absent or have wrong shapes or dtypes, or the packing is unknown.
    """
    packing = _packing(settings)
    for name in stored.specs:
        module, _, last = name.rpartition(".")
        if last in SIDECARS and f"{module}.qweight" not in stored.specs:
            raise stored.orphan(name, f"{module}.qweight")
        if last == "qweight":
            yield f"{module}.weight", _logical(stored, module, packing)


def _packing(settings: Settings) -> Packing:
    bits = settings.whole("bits", default=4)
    if bits not in BITS:
        raise settings.fault("bits", f"one of {', '.join(map(str, BITS))}")
    group = settings.whole("group_size", default=128)
    if group < 1 and group != -1:
        raise settings.fault("group_size", "positive, or -1 for one group")
    if settings.flag("is_marlin_format", False):
        raise settings.fault("is_marlin_format", "false")
    told = "format" if settings.given.get("checkpoint_format") is None else "checkpoint_format"
    version = settings.text(told, default="gptq")
    if version not in FORMATS:
        raise settings.fault(told, " or ".join(FORMATS))
    meta = settings.given.get("meta")
    by_words = "gptqmodel" in str(meta.get("quantizer") if isinstance(meta, dict) else "").lower()
    offset = "none" if version == "gptq_v2" else "words" if by_words else "each"
    return Packing(None if settings.given.get("dynamic") else bits, group, offset)


def _logical(stored: Stored, module: str, packing: Packing) -> Logical:
    weight, zeros, scales, groups = (f"{module}.{last}" for last in ("qweight", *SIDECARS))
    words, features = _matrix(stored, weight, scales, [INT32])
    spec = stored.need(scales, weight, FLOATS)
    number, _ = _matrix(stored, scales, weight, FLOATS)
    bits = packing.bits or _bits(stored, zeros, weight, features)
    length = count(words, bits)
    if not length or not number or spec.shape[1] != features or features * bits % WORD:
        raise stored.fault(
            f"{weight} must fit {bits} bits and {scales} {spec.shape}, got {stored.specs[weight]}"
        )
    stored.need(zeros, weight, [INT32], (number, features * bits // WORD))
    parts: tuple[str, ...] = (weight, zeros, scales)
    if groups in stored.specs:
        stored.need(groups, weight, [INT32], (length,))
        parts = (*parts, groups)
    elif number != (1 if packing.group_size == -1 else -(-length // packing.group_size)):
        raise stored.fault(
            f"{scales} must have a row per {packing.group_size} of {length} features, got {spec}"
        )

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        size = length if packing.group_size == -1 else packing.group_size
        places = read(groups) if groups in parts else np.arange(length) // size
        if places.min() < -number or places.max() >= number:
            raise stored.fault(f"{groups} must have groups below {number}, got {places.max()}")
        zero = _zeros(read(zeros), bits, packing.offset)
        factors, packed = read(scales), read(weight)
        result = np.empty((features, length), dtype)
        for start in range(0, features, step(length)):
            chosen = slice(start, start + step(length))
            codes = unpack(packed[:, chosen].T, bits).astype(FLOAT32)
            codes -= zero[:, chosen].T.take(places, axis=1)
            with np.errstate(all="ignore"):
                values = factors[:, chosen].T.astype(FLOAT32).take(places, axis=1) * codes
            result[chosen] = rounded(rounded(values, factors.dtype), dtype)
        return result

    return Logical((features, length), parts, compute)


def _matrix(stored: Stored, name: str, owner: str, dtypes: Sequence[Dtype]) -> tuple[int, int]:
    shape = stored.need(name, owner, dtypes).shape
    if len(shape) != 2 or not all(shape):
        raise stored.fault(f"{name} must have rows and columns, got {shape}")
    return shape[0], shape[1]


def _bits(stored: Stored, zeros: str, weight: str, features: int) -> int:
    """Bits of a module's codes, from the shape of its zeros."""
    _, words = _matrix(stored, zeros, weight, [INT32])
    for bits in BITS:
        if words * WORD == features * bits:
            return bits
    raise stored.fault(
        f"{zeros} must fit {features} features of 2, 3, 4 or 8 bits, got {stored.specs[zeros]}"
    )


def _zeros(words: np.ndarray, bits: int, offset: str) -> np.ndarray:
    """The zeros, (groups, out)."""
    if offset == "words":
        added = np.resize(np.array(WORDS[bits], np.uint32), words.shape[1])
        words = (words.view(np.uint32) + added).view(np.int32)
    found = unpack(words, bits).astype(np.int16)
    return (found + 1) & (2**bits - 1) if offset == "each" else found
