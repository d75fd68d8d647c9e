"""Checks of torch optimizers' classes and settings, and of their model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from attention_bridge.errors import InputError

# One optimizer, or several that train one model together, such as Muon for its matrices and AdamW for the rest.
Optimizers: TypeAlias = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]

SUPPORTED = {
    f"torch.optim.{name}": getattr(torch.optim, name)
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adafactor", "Muon")
    if hasattr(torch.optim, name)  # Muon is in PyTorch 2.9 and later
}
# Rules whose step of an element depends on the whole parameter.
WHOLE = ("torch.optim.Adafactor", "torch.optim.Muon", "transformers.Adafactor")
# Keys of Lion's groups: its settings, and the keys that schedulers add.
LION = {
    "params",
    "lr",
    "betas",
    "weight_decay",
    "initial_lr",
    "max_lr",
    "min_lr",
    "max_momentum",
    "base_momentum",
}


class Group(NamedTuple):
    """A parameter group and its update rule.

    Attributes:
        rule: the full name of the optimizer's class, as in `rule_of`.
        settings: the group as the optimizer has it.
        scheduler: scheduler of the optimizer; None for none.
    """

    rule: str
    settings: Mapping[str, Any]
    scheduler: Any = None


def rule_of(optimizer: Any) -> str | None:
    """The name of a torch optimizer's update rule, or None if optax has no equivalent."""
    # A subclass may have a different update rule.
    for name, cls in SUPPORTED.items():
        if type(optimizer) is cls:
            return name
    if not isinstance(optimizer, torch.optim.Optimizer):
        return None
    name, module = type(optimizer).__name__, type(optimizer).__module__
    if name == "Adafactor" and module.partition(".")[0] == "transformers":
        return "transformers.Adafactor"
    if name == "Lion" and all(
        {"lr", "betas", "weight_decay"} <= set(group) for group in optimizer.param_groups
    ):
        return "Lion"
    return None


def optimizers_of(given: Any) -> tuple[Any, ...]:
    """The optimizers of an argument that is one optimizer, or a list or tuple of them."""
    return tuple(given) if type(given) in (list, tuple) else (given,)


def pairs_of(optimizers: Any, schedulers: Any) -> list[tuple[Any, Any]]:
    """Each optimizer with its scheduler, which is None where there is none.

    Raises:
        InputError: the schedulers do not fit the optimizers in number.
    """
    several = optimizers_of(optimizers)
    if schedulers is None:
        return [(optimizer, None) for optimizer in several]
    each = tuple(schedulers) if isinstance(schedulers, (list, tuple)) else (schedulers,)
    if len(each) != len(several):
        raise InputError(
            f"scheduler has one scheduler or None for each optimizer, but got {len(each)} for {len(several)} optimizers"
        )
    return list(zip(several, each, strict=True))


def groups_of(optimizers: Any, schedulers: Any = None) -> list[Group]:
    """The parameter groups of all optimizers, in order."""
    return [
        Group(str(rule_of(optimizer)), group, scheduler)
        for optimizer, scheduler in pairs_of(optimizers, schedulers)
        for group in optimizer.param_groups
    ]


def check_optimizer(optimizers: Any) -> None:
    """Check that optax has an equivalent of a torch optimizer, or of each in a list.

    Raises:
        InputError: the class, or an option of it, has no equivalent in optax, or two optimizers share a parameter.
    """
    several, seen = optimizers_of(optimizers), set[int]()
    if not several:
        raise InputError("torch_optimizer is an optimizer or a list of them, but got an empty one")
    for optimizer in several:
        _check_one(optimizer)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if seen & held:
            raise InputError(
                "each parameter belongs to one optimizer, but two of torch_optimizer share a parameter"
            )
        seen |= held


def _check_one(optimizer: Any) -> None:
    name = rule_of(optimizer)
    if name is None:
        *known, last = *SUPPORTED, "transformers.Adafactor", "Lion"
        raise InputError(
            f"torch_optimizer is a {', '.join(known)} or {last}, but got {type(optimizer).__name__}"
        )
    if name == "Lion":
        _check_lion(optimizer)
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise InputError(f"{name} with differentiable=True has no equivalent in optax: set it to False")
        if any(parameter.is_complex() for parameter in group["params"]):
            raise InputError(f"{name} is matched for real parameters, but it has complex ones")


def _check_lion(optimizer: Any) -> None:
    """Check that a class called Lion is the plain one of its paper; others add settings to the groups."""
    for group in optimizer.param_groups:
        unknown = sorted(set(group) - LION)
        if unknown:
            raise InputError(
                f"Lion has the settings lr, betas and weight_decay, but {type(optimizer).__module__}.Lion also has "
                f"{', '.join(unknown)}"
            )
    if getattr(optimizer, "decoupled_wd", False):
        raise InputError(
            "Lion with decoupled_weight_decay=True has no equivalent in optax: set it to False and divide "
            "weight_decay by lr"
        )


def check_model(optimizers: Any, model: Any) -> None:
    """Check that `model` has all parameters of the optimizers, and no sparse gradients.

    Raises:
        InputError: a check fails, or `model` is not a torch module.
    """
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model is the torch.nn.Module that the optimizer trains, but got {type(model).__name__}"
        )
    inside = {id(parameter) for parameter in model.parameters()}
    for index, group in enumerate(groups_of(optimizers)):
        for parameter in group.settings["params"]:
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


def check_whole(group: Group) -> None:
    """Check the settings of a rule that treats parameters as a whole.

    Raises:
        InputError: a scheduler has no effect.
    """
    if (
        group.rule == "transformers.Adafactor"
        and group.settings["relative_step"]
        and group.scheduler is not None
    ):
        raise InputError(
            "transformers.Adafactor with relative_step=True has its own learning rate: give no scheduler"
        )
