"""MXFP4 weights of experts (gpt-oss, `quant_method` mxfp4).

A value is `FP4[code] * 2 ** (scale - 127)`; 32 values share a scale. A byte holds two codes, the lower four bits
first. The reference is transformers' `convert_moe_packed_tensors`, which writes the dtype of the model's parameter:
`dtype` of config.json, for gpt-oss bfloat16.

| stored                                                   | meaning                                         |
|----------------------------------------------------------|-------------------------------------------------|
| `x_blocks`, uint8 (experts, features, groups, 16)        | the codes                                       |
| `x_scales`, uint8 (experts, features, groups)            | the exponents                                   |

The result is `x`, (experts, groups * 32, features): the reference stores experts' weights as (in, out).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attention_bridge.checkpoints.quantised.logical import (
    FLOAT32,
    UINT8,
    Dtype,
    Logical,
    Read,
    Stored,
    rounded,
    step,
)
from attention_bridge.checkpoints.quantised.settings import Settings

_HALF = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP4 = np.array(_HALF + [-value for value in _HALF], FLOAT32)
BYTES = 16  # of a group of 32 codes


def plan(stored: Stored, settings: Settings) -> Iterator[tuple[str, Logical]]:
    """Yield the name and description of each dequantised tensor.

    Args:
        stored: the stored tensors.
        settings: the `quantization_config`; no field of it is used.

    Raises:
        CheckpointError: tensors are absent or have wrong shapes or dtypes.
    """
    for name in stored.specs:
        if name.endswith("_blocks"):
            yield name.removesuffix("_blocks"), _logical(stored, name)
        elif name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" not in stored.specs:
            raise stored.orphan(name, f"{name.removesuffix('_scales')}_blocks")


def _logical(stored: Stored, blocks: str) -> Logical:
    scales = f"{blocks.removesuffix('_blocks')}_scales"
    shape = stored.need(blocks, scales, [UINT8]).shape
    if len(shape) != 4 or shape[3] != BYTES:
        raise stored.fault(f"{blocks} must be (experts, features, groups, {BYTES}) uint8, got {shape}")
    stored.need(scales, blocks, [UINT8], shape[:3])
    experts, features, groups, _ = shape

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        codes, exponents = read(blocks), read(scales)
        result = np.empty((experts, groups * 2 * BYTES, features), dtype)
        for expert in range(experts):
            for start in range(0, groups, step(2 * BYTES * features)):
                chosen = slice(start, start + step(2 * BYTES * features))
                turned = np.ascontiguousarray(codes[expert, :, chosen].reshape(features, -1).T)
                values = np.stack([FP4[turned & 15], FP4[turned >> 4]], axis=1).reshape(
                    -1, 2 * BYTES, features
                )
                power = exponents[expert, :, chosen].T.astype(np.int32) - 127
                with np.errstate(all="ignore"):
                    values = np.ldexp(values, power[:, None])
                rows = slice(start * 2 * BYTES, start * 2 * BYTES + len(values) * 2 * BYTES)
                result[expert, rows] = rounded(values, dtype).reshape(-1, features)
        return result

    return Logical((experts, groups * 2 * BYTES, features), (blocks, scales), compute)
