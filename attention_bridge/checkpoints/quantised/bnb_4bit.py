"""NF4 and FP4 weights of bitsandbytes (QLoRA, `quant_method` bitsandbytes with `load_in_4bit`).

A value is `table[code] * absmax` in float32, where `absmax` is the largest magnitude of its block. With double
quantisation, `absmax` is `nested_quant_map[absmax] * nested_absmax + nested_offset`. A byte holds two codes, the
higher four bits first. The reference is transformers' `model.dequantize()`: it rounds to the dtype that the weight
had before quantisation (`dtype` of the quantisation state), then to the model's dtype.

| stored                                           | meaning                                                 |
|--------------------------------------------------|---------------------------------------------------------|
| `x.weight`, ((out * in + 1) // 2, 1)             | the codes; uint8, or another dtype of the same bytes    |
| `x.weight.absmax`                                | float32, or uint8 with double quantisation              |
| `x.weight.quant_map`                             | the 16 values of the codes                              |
| `x.weight.nested_absmax`, `.nested_quant_map`    | float32, for double quantisation                        |
| `x.weight.quant_state.bitsandbytes__nf4`         | JSON as uint8: shape, dtype, blocksize, nested_...      |
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attention_bridge.checkpoints.quantised.bnb_state import KINDS, QUANT_STATE, State, state
from attention_bridge.checkpoints.quantised.logical import (
    FLOAT32,
    FLOATS,
    UINT8,
    Dtype,
    Logical,
    Read,
    Stored,
    pairs,
    rounded,
)
from attention_bridge.checkpoints.quantised.settings import Settings

SIDECARS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
TOGETHER = 2**18  # values dequantised together


def plan(stored: Stored, settings: Settings) -> Iterator[tuple[str, Logical]]:
    """Yield the name and description of each dequantised tensor.

    Args:
        stored: the stored tensors.
        settings: the `quantization_config`; no field of it is used.

    Raises:
        CheckpointError: tensors are absent, or have wrong shapes, dtypes or quantisation states.
    """
    for name in stored.specs:
        owner = owner_of(name)
        if owner is None:
            continue
        if owner not in stored.specs:
            raise stored.orphan(name, owner)
        states = [found for kind in KINDS if (found := f"{owner}{QUANT_STATE}{kind}") in stored.specs]
        if len(states) != 1:
            found = f"{len(states)} of them are there" if states else "which is absent"
            raise stored.fault(f"{owner} needs one {owner}{QUANT_STATE}nf4 or fp4, {found}")
        if name == states[0]:
            yield owner, _logical(stored, owner, name)


def owner_of(name: str) -> str | None:
    """Name of the weight to which a sidecar belongs; None if it is no sidecar."""
    if QUANT_STATE in name:
        return name.partition(QUANT_STATE)[0]
    owner, _, last = name.rpartition(".")
    return owner if last in SIDECARS else None


def _logical(stored: Stored, weight: str, described: str) -> Logical:
    told = state(stored, weight, described)
    spec = stored.specs[weight]
    count = math.prod(told.shape)
    held = math.prod(spec.shape) * spec.dtype.itemsize
    row = len(spec.shape) > 1 and spec.shape[0] == 1 < spec.shape[-1]  # which the reference reads transposed
    if spec.dtype not in (UINT8, *FLOATS) or held != -(-count // 2) or row:
        raise stored.fault(
            f"{weight} must be a column of {-(-count // 2)} bytes for {told.shape}, got {spec}"
        )
    parts = _check_sidecars(stored, weight, told, -(-count // told.blocksize))

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        codes = read(weight).reshape(-1).view(UINT8)
        result = np.empty(count, dtype)
        largest, table = _largest(read, weight, told), pairs(told.table, low_first=False)
        together = TOGETHER // told.blocksize * told.blocksize
        for start in range(0, count, together):
            halves = codes[start // 2 : (start + together) // 2]
            values = table.take(halves, axis=0).reshape(-1)[: count - start]
            blocks = largest[start // told.blocksize : (start + together) // told.blocksize]
            with np.errstate(all="ignore"):
                values *= np.repeat(blocks, told.blocksize)[: len(values)]
            result[start : start + together] = rounded(rounded(values, told.dtype), dtype)
        return result.reshape(told.shape)

    return Logical(told.shape, (weight, described, *parts), compute)


def _check_sidecars(stored: Stored, weight: str, told: State, blocks: int) -> list[str]:
    """Check dtypes and shapes of the sidecars, and return their names."""
    shapes: dict[str, tuple[Dtype, int]] = {
        "absmax": (UINT8 if told.nested else FLOAT32, blocks),
        "quant_map": (FLOAT32, len(told.table)),
    }
    if told.nested:
        shapes["nested_absmax"] = FLOAT32, -(-blocks // told.nested.blocksize)
        shapes["nested_quant_map"] = FLOAT32, 256
    for last, (dtype, length) in shapes.items():
        stored.need(f"{weight}.{last}", weight, [dtype], (length,))
    for last in SIDECARS:
        if last not in shapes and f"{weight}.{last}" in stored.specs:
            raise stored.fault(f"{weight}.{last} is there, but the quantisation state has no nested fields")
    table = stored.reader.read(f"{weight}.quant_map")
    if not np.allclose(table, told.table, rtol=0, atol=1e-6):
        raise stored.fault(f"{weight}.quant_map must hold the 16 values of {told.kind}, got others")
    return [f"{weight}.{last}" for last in shapes]


def _largest(read: Read, weight: str, told: State) -> np.ndarray:
    """The largest magnitude of each block, float32."""
    stored = read(f"{weight}.absmax")
    if told.nested is None:
        return stored
    table, factors = read(f"{weight}.nested_quant_map"), read(f"{weight}.nested_absmax")
    with np.errstate(all="ignore"):
        products = table[stored] * np.repeat(factors, told.nested.blocksize)[: len(stored)]
        return products + np.float32(told.nested.offset)
