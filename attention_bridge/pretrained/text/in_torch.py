"""Calls of a PyTorch model with NumPy arrays; `in_jax` does the same in JAX."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torch_attention.models import generate as generate


def arrays(model: Any, *given: np.ndarray | None) -> tuple[Any, ...]:
    """Convert NumPy arrays to arrays on the model's device; None stays None."""
    device = next(model.parameters()).device
    return tuple([None if each is None else torch.from_numpy(each).to(device) for each in given])


def run(function: Callable[..., Any], model: Any, *given: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Call `function(model, *arrays)`, without gradients, and convert its results to float32."""
    with torch.inference_mode():
        found = function(model, *arrays(model, *given))
    return tuple([each.float().numpy(force=True) for each in found])
