"""Cache of the results that many ports share during a search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BYTES = 2**29  # most bytes kept


@dataclass(eq=False)
class Memo:
    """Least-recently-used cache of results, keyed by the identity of their input arrays.

    Attributes:
        results: results with their input arrays, which are kept alive so that no new array takes their identity.
        size: total size of the results in bytes.
    """

    results: OrderedDict[Any, tuple[tuple[np.ndarray | None, ...], np.ndarray]] = field(
        default_factory=OrderedDict
    )
    size: int = 0

    def keep(
        self,
        arrays: tuple[np.ndarray | None, ...],
        options: tuple[Any, ...],
        compute: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """Return the cached result, or compute it.

        Args:
            arrays: inputs of the result, identified by their storage; they must never be written to.
            options: all other values that the result depends on.
            compute: computes the result.
        """
        key = (*map(_identity, arrays), options)
        if key not in self.results:
            result = compute()
            self.results[key] = arrays, result
            self.size += result.nbytes
            while self.size > BYTES and len(self.results) > 1:
                self.size -= self.results.popitem(last=False)[1][1].nbytes
        self.results.move_to_end(key)
        return self.results[key][1]


def _identity(array: np.ndarray | None) -> Any:
    """Address, shape and strides of an array, which distinguish views such as a transpose."""
    if array is None:
        return None
    return array.__array_interface__["data"][0], array.shape, array.strides
