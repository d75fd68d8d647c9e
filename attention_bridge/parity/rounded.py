"""What a dtype costs: PyTorch in float64, every result rounded to a coarser dtype.

A module that is proven in float64 and runs in this mode is the reference run in that dtype: no cast in the module's
own code can make it more or less exact. Its error is the yardstick of `attention_bridge.parity.proof`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Rounded(TorchDispatchMode):
    """While the mode is active, each float64 result of an operation, forward or backward, is rounded.

    Args:
        dtype: that results are rounded to; what overflows in it stays as it is.
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
        """Run an operation and round what it made; a view stays a view."""
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
    """The function on tensors of float64; anything else stays."""
    return lambda x: function(x) if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x
