"""Descriptions of dequantised tensors, and checks of the stored tensors that they are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

Read = Callable[[str], np.ndarray]
Dtype = np.dtype[Any]
UINT8, INT8, INT32 = np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int32)
FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (BFLOAT16, FLOAT16, FLOAT32)


class Logical(NamedTuple):
    """A tensor that is computed from stored ones.

    Attributes:
        shape: its shape.
        parts: names of the stored tensors that belong to it; the first is the quantised weight.
        compute: function that dequantises it, given a function that reads a stored tensor, and the dtype of the
            result.
    """

    shape: tuple[int, ...]
    parts: tuple[str, ...]
    compute: Callable[[Read, Dtype], np.ndarray]


@dataclass(frozen=True)
class Stored:
    """The stored tensors of a quantised checkpoint.

    Attributes:
        reader: the opened checkpoint.
        method: name of the quantisation method, for messages.
    """

    reader: Reader
    method: str

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape and dtype of each stored tensor, by name."""
        return self.reader.specs

    def fault(self, text: str) -> CheckpointError:
        """The error of tensors that do not fit the method.

        Args:
            text: the problem, as a sentence without a full stop.
        """
        return CheckpointError(f"{self.reader.path} is damaged or no {self.method} checkpoint: {text}")

    def need(
        self,
        name: str,
        owner: str,
        dtypes: Sequence[Dtype],
        shape: tuple[int, ...] | None = None,
    ) -> Spec:
        """Check a stored tensor.

        Args:
            name: its name.
            owner: name of the tensor that needs it.
            dtypes: the dtypes that it may have.
            shape: the shape that it must have; None for any shape.

        Returns:
            Its shape and dtype.

        Raises:
            CheckpointError: it is absent or has another dtype or shape.
        """
        spec = self.specs.get(name)
        if spec is None:
            raise self.fault(f"{owner} needs {name}, which is absent")
        if spec.dtype not in dtypes or shape not in (None, spec.shape):
            words = " or ".join(dtype.name for dtype in dtypes)
            expected = words if shape is None else f"{shape} {words}"
            raise self.fault(f"{name} must be {expected}, got {spec}")
        return spec

    def orphan(self, name: str, owner: str) -> CheckpointError:
        """The error of a sidecar whose quantised weight is absent or has another dtype.

        Args:
            name: the sidecar.
            owner: name that its weight must have.
        """
        spec = self.specs.get(owner)
        found = "is absent" if spec is None else f"is {spec}"
        return self.fault(f"{name} belongs to a quantised {owner}, which {found}")


def rounded(array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Round to a float dtype as torch does: to nearest, ties to even; too large values become infinite."""
    with np.errstate(all="ignore"):
        return array.astype(dtype, copy=False)


def pairs(table: np.ndarray, *, low_first: bool) -> np.ndarray:
    """The two values of each byte that holds two codes.

    Args:
        table: the 16 values of the codes.
        low_first: whether the lower four bits are the first code.

    Returns:
        (256, 2).
    """
    every = np.arange(256)
    codes = [every & 15, every >> 4]
    return table[np.stack(codes if low_first else codes[::-1], axis=-1)]


def step(values: int, most: int = 2**18) -> int:
    """Number of rows of `values` values each that are dequantised together, so that temporaries fit in a cache."""
    return max(1, most // max(1, values))
