"""The quantisation state of a 4-bit weight of bitsandbytes: JSON in a tensor of bytes."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.quantised.logical import FLOAT32, FLOATS, UINT8, Stored
from attention_bridge.checkpoints.quantised.settings import LARGEST, short
from attention_bridge.errors import CheckpointError

QUANT_STATE = ".quant_state.bitsandbytes__"
BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
LONGEST = 10_000  # bytes
MOST_AXES = 8
LARGEST_OFFSET = 3.4028234e38  # the largest finite float32
# The values of the codes: NormalFloat (Dettmers et al. 2023), and bitsandbytes' own FP4.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
_FP4 = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]  # times 12; both zeros are positive
KINDS: dict[str, np.ndarray] = {
    "nf4": np.array(NF4, FLOAT32),
    "fp4": np.array(_FP4 + [0.0] + [-value for value in _FP4[1:]], FLOAT32) / np.float32(12),
}


class Nested(NamedTuple):
    """Double quantisation: number of `absmax` that share a factor, and the mean that was subtracted from them."""

    blocksize: int
    offset: float


class State(NamedTuple):
    """A quantisation state.

    Attributes:
        kind: "nf4" or "fp4".
        table: the 16 values of the codes, float32.
        shape: shape of the weight.
        dtype: dtype of the weight before quantisation.
        blocksize: number of values that share an `absmax`.
        nested: double quantisation; None for none.
    """

    kind: str
    table: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocksize: int
    nested: Nested | None


def state(stored: Stored, weight: str, name: str) -> State:
    """Read a quantisation state.

    Args:
        stored: the stored tensors.
        weight: name of the quantised weight.
        name: name of the tensor with the state.

    Raises:
        CheckpointError: it is no JSON, lacks a field, or has a field that cannot be used.
    """
    spec = stored.need(name, weight, [UINT8])
    if len(spec.shape) != 1 or spec.shape[0] > LONGEST:
        raise stored.fault(f"{name} must hold at most {LONGEST} bytes of JSON, got {spec}")
    try:
        fields = json.loads(stored.reader.read(name).tobytes(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise stored.fault(f"{name} is no JSON") from error
    if not isinstance(fields, dict):
        raise stored.fault(f"{name} must have names, got {short(fields)}")
    return _Reading(stored, name, fields).state(name.rpartition("__")[2])


class _Reading:
    """Checked access to the fields of a quantisation state."""

    def __init__(self, stored: Stored, name: str, fields: dict[str, Any]) -> None:
        self.stored, self.name, self.fields = stored, name, fields

    def state(self, kind: str) -> State:
        if self.fields.get("quant_type") != kind:
            raise self.fault("quant_type", repr(kind))
        dtypes = {dtype.name: dtype for dtype in FLOATS}
        dtype = self.fields.get("dtype")
        if not isinstance(dtype, str) or dtype not in dtypes:
            raise self.fault("dtype", " or ".join(dtypes))
        blocksize = self.fields.get("blocksize")
        if type(blocksize) is not int or blocksize not in BLOCKSIZES:
            raise self.fault("blocksize", f"one of {', '.join(map(str, BLOCKSIZES))}")
        return State(kind, KINDS[kind], self.shape(), dtypes[dtype], blocksize, self.nested())

    def shape(self) -> tuple[int, ...]:
        shape = self.fields.get("shape")
        if (
            not isinstance(shape, list)
            or not 0 < len(shape) <= MOST_AXES
            or any(type(size) is not int or not 0 < size <= LARGEST for size in shape)
        ):
            raise self.fault("shape", "a list of positive whole numbers")
        return tuple(shape)

    def nested(self) -> Nested | None:
        if not any(name.startswith("nested_") for name in self.fields):
            return None
        blocksize: Any = self.fields.get("nested_blocksize")
        offset: Any = self.fields.get("nested_offset")
        if type(blocksize) is not int or not 0 < blocksize <= LARGEST:
            raise self.fault("nested_blocksize", "a positive whole number")
        if type(offset) not in (int, float) or not abs(offset) <= LARGEST_OFFSET:  # NaN fails too
            raise self.fault("nested_offset", "a finite number")
        if self.fields.get("nested_dtype") != "float32":
            raise self.fault("nested_dtype", "'float32'")
        return Nested(blocksize, float(offset))

    def fault(self, field: str, expected: str) -> CheckpointError:
        given = short(self.fields.get(field))
        return self.stored.fault(f"{field} in {self.name} must be {expected}, got {given}")
