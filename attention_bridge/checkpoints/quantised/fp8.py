"""FP8 weights with scales per block, per row or per tensor (DeepSeek-V3 and others, `quant_method` fp8 or mxfp8).

A weight is `float8(weight) * scale`, a float32 product that is rounded once to the model's dtype. The reference is
transformers' `Fp8Dequantize` (its `dequantize=True`), which writes the dtype of the model's parameter: `dtype` of
config.json, usually bfloat16.

| stored                                                | meaning                                          |
|-------------------------------------------------------|--------------------------------------------------|
| `x.weight`, float8                                    | quantised weight                                 |
| `x.weight`, int8, with `expert_dtype` fp4             | two FP4 values a byte, the lower four bits first |
| `x.weight_scale_inv`, `x.scale`, `x.qscale_weight`    | factor (not its inverse, in spite of the name)   |
| `x.weight_scale`                                      | the same, as vLLM's `fp8` method names it        |
| `x.gate_up_proj`, `x.gate_up_proj_scale_inv`          | the same for experts in one tensor               |
| `x.activation_scale`, `x.input_scale`                 | scale of the activations, which is not used      |

Blocks have the size that `weight_block_size` says, and the last ones may be smaller, as in DeepSeek's own code.
transformers divides the weight evenly by the number of scales instead. That is the same where all blocks are whole;
where the last ones are smaller, it raises an error or takes blocks of another size. Without `weight_block_size`,
blocks are 128 x 128 if that fits the number of scales, else the weight is divided evenly: a scale per row or tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.checkpoints.quantised.logical import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INT8,
    UINT8,
    Dtype,
    Logical,
    Read,
    Stored,
    pairs,
    rounded,
    step,
)
from attention_bridge.checkpoints.quantised.mxfp4 import FP4
from attention_bridge.checkpoints.quantised.settings import Settings

FLOAT8 = tuple(
    np.dtype(getattr(ml_dtypes, f"float8_{kind}")) for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")
)
E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
SCALES = (FLOAT32, BFLOAT16, FLOAT16, E8M0, UINT8)
BLOCK, FP4_BLOCK = (128, 128), (1, 32)
UNUSED = ("activation_scale", "input_scale")
Block = tuple[int, int]


def plan(stored: Stored, settings: Settings) -> Iterator[tuple[str, Logical]]:
    """Yield the name and description of each dequantised tensor.

    Args:
        stored: the stored tensors.
        settings: the `quantization_config`.

    Raises:
        CheckpointError: tensors are absent, have wrong shapes or dtypes, or contradict the configuration.
    """
    block = settings.block("weight_block_size")
    packed = settings.text("expert_dtype", default="fp8") == "fp4"
    weights = (*FLOAT8, INT8) if packed else FLOAT8
    scales: dict[str, str] = {}
    unused: dict[str, list[str]] = {}
    for name in stored.specs:
        if owner := _owner(stored, name, weights):
            if owner not in stored.specs or stored.specs[owner].dtype not in weights:
                raise stored.orphan(name, owner)
            if owner in scales:
                raise stored.fault(f"{owner} has two scales, {scales[owner]} and {name}")
            scales[owner] = name
        elif owner := _unused(name):
            if owner not in stored.specs:
                raise stored.orphan(name, owner)
            unused.setdefault(owner, []).append(name)
    for name, spec in stored.specs.items():
        if name not in scales and (name in unused or spec.dtype in FLOAT8):
            raise stored.fault(f"{name} is {spec} and needs a scale ({_scale_name(name)}), which is absent")
        if name in scales:
            yield name, _logical(stored, name, scales[name], unused.get(name, ()), block)


def _owner(stored: Stored, name: str, weights: tuple[Dtype, ...]) -> str | None:
    """Name of the weight that a tensor scales; None if it is no scale."""
    if name.endswith("_scale_inv"):
        return name.removesuffix("_scale_inv")
    if name.endswith(".weight_scale"):
        return name.removesuffix("_scale")
    module, _, last = name.rpartition(".")
    weight = f"{module}.weight"
    if last == "qscale_weight":
        return weight
    if last == "scale" and weight in stored.specs and stored.specs[weight].dtype in weights:
        return weight
    return None


def _unused(name: str) -> str | None:
    """Name of the weight whose activations a tensor scales; None if it is no such scale."""
    for ending in UNUSED:
        if name.endswith(f".{ending}"):
            return f"{name.removesuffix(ending)}weight"
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}")
    return None


def _scale_name(name: str) -> str:
    return f"{name}_scale_inv"


def _logical(stored: Stored, name: str, scale: str, unused: Any, block: Block | None) -> Logical:
    spec = stored.specs[name]
    scales = stored.need(scale, name, SCALES)
    packed = spec.dtype == INT8
    if len(spec.shape) < 2 or not all(spec.shape):
        raise stored.fault(f"{name} must have rows and columns, got {spec}")
    shape = (*spec.shape[:-1], spec.shape[-1] * (2 if packed else 1))
    grid = _grid(shape, scales.shape)
    blocks = _blocks(shape[-2:], grid[-2:], FP4_BLOCK if packed else block) if grid else None
    if blocks is None:
        told = FP4_BLOCK if packed else block
        expected = f"{told[0]} x {told[1]} blocks" if told else "even blocks"
        raise stored.fault(
            f"{scale} must have one scale for each of the {expected} of {name}, {shape}, got {scales}"
        )

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        return _scaled(read(name), _factors(read(scale)).reshape(grid), blocks, dtype)

    return Logical(shape, (name, scale, *unused), compute)


def _grid(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape of the scales with the axes of the weight; None if they do not fit it."""
    leading = shape[:-2]
    if len(scales) == len(shape) and scales[:-2] == leading and all(scales):
        return scales
    if len(scales) < 2 and math.prod(scales) == math.prod(leading):
        return (*leading, 1, 1)
    return None


def _blocks(shape: tuple[int, ...], grid: tuple[int, ...], block: Block | None) -> Block | None:
    """Rows and columns of a block; None if the scales do not fit the weight."""
    told = block or BLOCK
    if grid == tuple(-(-size // part) for size, part in zip(shape, told, strict=True)):
        return told
    if block is None and not any(size % part for size, part in zip(shape, grid, strict=True)):
        return shape[0] // grid[0], shape[1] // grid[1]
    return None


def _factors(scales: np.ndarray) -> np.ndarray:
    """The scales in float32; bytes are exponents, as in E8M0."""
    if scales.dtype == UINT8:
        with np.errstate(over="ignore"):
            return np.ldexp(np.float32(1), scales.astype(np.int32) - 127)
    return scales.astype(FLOAT32)


def _scaled(weight: np.ndarray, scales: np.ndarray, block: Block, dtype: Dtype) -> np.ndarray:
    """The dequantised weight, computed some rows at a time."""
    rows, columns = weight.shape[-2], weight.shape[-1] * (2 if weight.dtype == INT8 else 1)
    result = np.empty((*weight.shape[:-1], columns), dtype)
    every = np.arange(256, dtype=UINT8)
    table = pairs(FP4, low_first=True) if weight.dtype == INT8 else every.view(weight.dtype).astype(FLOAT32)
    for place in np.ndindex(*weight.shape[:-2]):
        codes = weight[place].view(UINT8)
        for start in range(0, rows, step(columns)):
            chosen = slice(start, start + step(columns))
            factors = scales[place][np.arange(rows)[chosen] // block[0]]
            values = table.take(codes[chosen], axis=0).reshape(-1, columns)
            with np.errstate(all="ignore"):
                product = values * np.repeat(factors, block[1], axis=-1)[:, :columns]
            result[place][chosen] = rounded(product, dtype)
    return result
