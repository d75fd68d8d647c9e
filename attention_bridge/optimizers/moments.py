"""The moments in the state of each torch optimizer, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attention_bridge.optimizers.options import Group


def moments_of(group: Group) -> tuple[str, ...]:
    """The names of the moments in the torch state of a parameter group."""
    settings = group.settings
    match group.rule:
        case "torch.optim.SGD":
            return ("momentum_buffer",) if settings["momentum"] else ()
        case "torch.optim.RMSprop":
            momentum = ("momentum_buffer",) if settings["momentum"] else ()
            return ("square_avg", *momentum, *(("grad_avg",) if settings["centered"] else ()))
        case "torch.optim.Muon":
            return ("momentum_buffer",)
        case "torch.optim.Adafactor":
            return ("row_var", "col_var", "variance")
        case "transformers.Adafactor":
            factored = ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq", "RMS")
            return factored if settings["beta1"] is None else (*factored, "exp_avg")
        case "Lion":
            return ("exp_avg",)
        case _:
            return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if settings["amsgrad"] else 2]


def moments_for(group: Group, parameter: torch.Tensor) -> tuple[str, ...]:
    """The names of the moments that the torch state has for a parameter: Adafactor's depend on the number of axes."""
    factored = {"row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col"}
    if "Adafactor" not in group.rule:
        return moments_of(group)
    full = {"variance", "exp_avg_sq"}
    return tuple(name for name in moments_of(group) if name not in (full if parameter.ndim > 1 else factored))


def step_count(group: Group, steps: int) -> dict[str, Any]:
    """The entry `step` of a torch state; empty for rules that count no steps."""
    if group.rule in ("torch.optim.SGD", "torch.optim.Muon", "Lion"):
        return {}
    if group.rule == "transformers.Adafactor":
        return {"step": steps}
    # PyTorch's dtype for step counts: float32 (exact up to 2^24), or float64 if that is the default dtype.
    wide = torch.get_default_dtype() == torch.float64
    return {"step": torch.tensor(float(steps), dtype=torch.float64 if wide else torch.float32)}


def expanded(name: str, moment: Any, parameter: torch.Tensor) -> torch.Tensor:
    """A moment in the shape of its parameter: values repeat along the axes over which a mean was taken."""
    match name:
        case "exp_avg_sq_row":
            moment = moment.unsqueeze(-1)
        case "exp_avg_sq_col":
            moment = moment.unsqueeze(-2)
        case "RMS":
            moment = torch.as_tensor(moment, dtype=parameter.dtype, device=parameter.device)
    return moment.expand(parameter.shape)


def reduced(name: str, moment: torch.Tensor) -> torch.Tensor:
    """The inverse of `expanded`."""
    match name:
        case "row_var":
            return moment[..., :1].contiguous()
        case "col_var":
            return moment[..., :1, :].contiguous()
        case "exp_avg_sq_row":
            return moment[..., 0].contiguous()
        case "exp_avg_sq_col":
            return moment[..., 0, :].contiguous()
        case "RMS":
            return moment.flatten()[0].clone()
    return moment


def steps_taken(state: Mapping[str, Any]) -> int:
    """The step count of a parameter; for rules that count no steps, 1 if there is a moment."""
    return int(state["step"]) if "step" in state else int(any(x is not None for x in state.values()))
