"""A function of a model, run as it is used and not as it is trained: without dropout, without gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def evaluate(function: Callable[..., Any], model: nn.Module, *arrays: Any, **settings: Any) -> Any:
    """Call `function(model, *arrays, **settings)` with the model in evaluation mode, which it is not left in.

    Args:
        function: one that stays the same from call to call, by which what was compiled is found again.
        model: what it is about.
        arrays: arrays, or None.
        settings: anything else; hashable.
    """
    was_training = model.training
    model.eval()
    try:
        return function(model, *arrays, **settings)
    finally:
        model.train(was_training)
