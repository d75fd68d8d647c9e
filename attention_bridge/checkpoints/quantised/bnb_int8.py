"""LLM.int8() weights of bitsandbytes (`quant_method` bitsandbytes with `load_in_8bit`).

A weight is `weight * SCB * (1 / 127)`, in float32 and in this order, where `SCB` is the largest magnitude of its row.
The reference is transformers' `model.dequantize()`, which rounds the result to the model's dtype (`dtype` of
config.json).

| stored                             | meaning                                         |
|------------------------------------|-------------------------------------------------|
| `x.weight`, int8 (out, in)         | quantised weight                                |
| `x.SCB`, float32 (out,)            | largest magnitude of each row                   |
| `x.weight_format`, uint8           | order of the values; 0 for rows, the only one   |
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention_bridge.checkpoints.quantised.logical import (
    FLOAT32,
    INT8,
    UINT8,
    Dtype,
    Logical,
    Read,
    Stored,
    rounded,
    step,
)
from attention_bridge.checkpoints.quantised.settings import Settings

ROWS = 0
INVERSE = np.float32(7.874015718698502e-3)  # 1 / 127, rounded as in bitsandbytes


def plan(stored: Stored, settings: Settings) -> Iterator[tuple[str, Logical]]:
    """Yield the name and description of each dequantised tensor.

    Args:
        stored: the stored tensors.
        settings: the `quantization_config`; no field of it is used.

    Raises:
        CheckpointError: tensors are absent, have wrong shapes or dtypes, or another order of the values.
    """
    for name in stored.specs:
        module, _, last = name.rpartition(".")
        weight = f"{module}.weight"
        if last in ("SCB", "weight_format") and weight not in stored.specs:
            raise stored.orphan(name, weight)
        if last == "weight_format" and f"{module}.SCB" not in stored.specs:
            raise stored.fault(f"{weight} needs {module}.SCB, which is absent")
        if last == "SCB":
            yield weight, _logical(stored, weight, module)


def _logical(stored: Stored, weight: str, module: str) -> Logical:
    scale, order = f"{module}.SCB", f"{module}.weight_format"
    shape = stored.need(weight, scale, [INT8]).shape
    if len(shape) != 2:
        raise stored.fault(f"{weight} must have rows and columns, got {shape}")
    stored.need(scale, weight, [FLOAT32], shape[:1])
    parts: tuple[str, ...] = (weight, scale)
    if order in stored.specs:
        parts = (*parts, order)
        spec = stored.need(order, weight, [UINT8])
        found = stored.reader.read(order) if spec.shape in ((), (1,)) else np.array(-1)
        if int(found.reshape(())) != ROWS:
            raise stored.fault(f"{order} must be {ROWS}, the order by rows, got {spec} {found.tolist()}")

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        codes, largest = read(weight), read(scale)
        result = np.empty(shape, dtype)
        for start in range(0, shape[0], step(shape[1])):
            chosen = slice(start, start + step(shape[1]))
            with np.errstate(all="ignore"):
                values = codes[chosen].astype(FLOAT32) * largest[chosen, None] * INVERSE
            result[chosen] = rounded(values, dtype)
        return result

    return Logical(shape, parts, compute)
