"""A couple of models in 16 bits, as the same models in float32, where mistakes are larger than rounding."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention_bridge.parity.calls import Calls
from attention_bridge.parity.couple import Couple
from attention_bridge.parity.measure import COARSE


def is_coarse(couple: Couple, calls: Calls) -> bool:
    """Whether a weight or an input has 16 bits."""
    names = {str(x.dtype).removeprefix("torch.") for x in couple.torch_module.state_dict().values()}
    names |= {x.dtype.name for x in calls.inputs.values() if isinstance(x, np.ndarray)}
    return bool(names & {*COARSE})


def in_float32(couple: Couple, calls: Calls) -> tuple[Couple, Calls]:
    """Copies of both models, and the inputs, in float32: each number is the same."""
    port = nnx.clone(couple.jax_module)
    nnx.update(port, jax.tree.map(_wide, nnx.state(port, nnx.Not(nnx.RngState))))
    for _, part in nnx.iter_modules(port):
        for name in ("dtype", "param_dtype"):
            given = getattr(part, name, None)
            if given is not None and not callable(getattr(given, "shape", None)) and _is_coarse(given):
                setattr(part, name, jnp.float32)
    inputs = {
        name: x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.name in COARSE else x
        for name, x in calls.inputs.items()
    }
    module = deepcopy(couple.torch_module).float()
    return replace(couple, torch_module=module, jax_module=port), replace(calls, inputs=inputs)


def _is_coarse(dtype: Any) -> bool:
    try:
        return np.dtype(dtype).name in COARSE
    except TypeError:
        return False


def _wide(x: Any) -> Any:
    return x.astype(jnp.float32) if hasattr(x, "dtype") and x.dtype.name in COARSE else x
