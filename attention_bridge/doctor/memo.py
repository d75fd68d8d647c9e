"""Results that many ports share, kept while the doctor tries mistakes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BYTES = 2**29  # that are kept at most


@dataclass(eq=False)
class Memo:
    """The latest results, by the arrays that they are made of.

    Attributes:
        results: each with its arrays, which stay alive so that no other array takes their identity.
        size: of all results, in bytes.
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
        """The result that was kept, or a new one.

        Args:
            arrays: that the result is made of, known by their identity: none is ever written to.
            options: what else decides the result.
            compute: makes it.
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
    """Where the numbers stand and how they are read: two views of one array, such as its transpose, are told apart."""
    if array is None:
        return None
    return array.__array_interface__["data"][0], array.shape, array.strides
