"""Checks of a torch optimizer's class and settings, and of its model."""

from __future__ import annotations

from typing import Any

import torch

from attention_bridge.errors import InputError

SUPPORTED = {torch.optim.SGD: "SGD", torch.optim.Adam: "Adam", torch.optim.AdamW: "AdamW"}


def check_optimizer(optimizer: Any) -> None:
    """Check that optax has an equivalent of a torch optimizer.

    Raises:
        InputError: the class, or an option of it, has no equivalent in optax.
    """
    # A subclass may have a different update rule.
    if type(optimizer) not in SUPPORTED:
        raise InputError(
            "torch_optimizer is a torch.optim.SGD, torch.optim.Adam or torch.optim.AdamW, "
            f"but got {type(optimizer).__name__}"
        )
    name = f"torch.optim.{SUPPORTED[type(optimizer)]}"
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise InputError(f"{name} with differentiable=True has no equivalent in optax: set it to False")
        if any(parameter.is_complex() for parameter in group["params"]):
            raise InputError(f"{name} is matched for real parameters, but it has complex ones")


def check_model(optimizer: torch.optim.Optimizer, model: Any) -> None:
    """Check that `model` has all parameters of `optimizer`, and no sparse gradients.

    Raises:
        InputError: a check fails, or `model` is not a torch module.
    """
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model is the torch.nn.Module that the optimizer trains, but got {type(model).__name__}"
        )
    inside = {id(parameter) for parameter in model.parameters()}
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if id(parameter) not in inside:
                raise InputError(
                    f"parameter group {index} of torch_optimizer has a parameter of shape "
                    f"{tuple(parameter.shape)} that is not one of model"
                )
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True:
            raise InputError(
                f"gradients are dense, but {name or 'model'} ({type(module).__name__}) makes sparse ones"
            )


def moments_of(group: dict[str, Any]) -> tuple[str, ...]:
    """The names of the moments in the torch state of a parameter group."""
    if "betas" in group:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]
    return ("momentum_buffer",) if group["momentum"] else ()
