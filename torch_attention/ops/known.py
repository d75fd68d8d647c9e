"""What an array holds, where that can be known."""

import numpy as np
import torch
from torch import Tensor


def known_values(x: Tensor) -> np.ndarray | None:
    """The values of `x`; None while code is compiled or mapped, when an array stands for others yet to come."""
    if torch.compiler.is_compiling() or x.is_meta:
        return None
    try:
        return x.detach().cpu().numpy()
    except RuntimeError:  # `torch.func.vmap` keeps what it maps over to itself
        return None
