"""Simulated low precision: PyTorch in float64 with every result rounded to a coarser dtype.

A module that is proven in float64 and runs in this mode is the reference computation in that dtype: no cast in the
module's own code makes it more or less precise. Its error is the yardstick of `attention_bridge.parity.proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Rounded(TorchDispatchMode):
    """Mode that rounds each float64 result of an operation, forward and backward.

    Args:
        dtype: dtype that results are rounded to; values that overflow in it stay unrounded.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and round its result; a view stays a view."""
        made = func(*args, **(kwargs or {}))
        aliases = [each.alias_info for each in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in aliases):
            return made
        rounded = self._in_place if any(alias is not None for alias in aliases) else self._round
        return tree_map(_of_float64(rounded), made)

    def _round(self, x: torch.Tensor) -> torch.Tensor:
        coarse = x.to(self.dtype).to(x.dtype)
        return torch.where(coarse.isfinite(), coarse, x)

    def _in_place(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(self._round(x))


def _of_float64(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """Apply the function to float64 tensors only; other values pass unchanged."""
    return lambda x: function(x) if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x
