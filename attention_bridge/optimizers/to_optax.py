"""Conversion of a torch optimizer to an equivalent optax transformation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax
import torch
from torch.optim.swa_utils import AveragedModel

from attention_bridge.errors import InputError
from attention_bridge.optimizers.averages import averaging_like
from attention_bridge.optimizers.matrices import Matrices, matrices_of
from attention_bridge.optimizers.names import Route, leaf_name, spread
from attention_bridge.optimizers.options import (
    WHOLE,
    Optimizers,
    check_model,
    check_optimizer,
    check_whole,
    groups_of,
    pairs_of,
)
from attention_bridge.optimizers.rules import step_of
from attention_bridge.optimizers.schedules import GroupRates, look_ahead
from attention_bridge.optimizers.steps import clip_by_torch_norm
from attention_bridge.weights import Layout
from attention_bridge.weights.containers import open_container

FROZEN = -1


def optimizer_like(
    torch_optimizer: Optimizers | AveragedModel,
    *,
    model: torch.nn.Module | None = None,
    scheduler: Any = None,
    steps: int | None = None,
    max_norm: float | None = None,
    max_value: float | None = None,
    source_layout: Layout | str | None = None,
    target_layout: Layout | str = "jax_attention",
    axes: Mapping[str, int] | None = None,
) -> optax.GradientTransformation:
    """Build the optax transformation that makes the same updates as a torch optimizer, step by step.

    Parameters of `model` that the optimizer does not have, or that need no gradient, are not updated.

    Args:
        torch_optimizer: an optimizer of the table in `attention_bridge.optimizers`, with one or more parameter groups,
            or a list of optimizers that train one model together; it is not changed. For an `AveragedModel`, the
            transformation averages weights: `update(params, state)` returns the averages.
        model: model that the optimizer trains; its parameter names identify the parameter groups. None is allowed if
            all parameters are in one group of an optimizer other than Adafactor and Muon.
        scheduler: scheduler of `torch.optim.lr_scheduler`, stepped after each step of the optimizer; None for constant
            learning rates. For a list of optimizers, a list with a scheduler or None for each.
        steps: number of future steps to tabulate the scheduler's rates for; after them the rates are NaN. None
            without a scheduler.
        max_norm: largest norm of all gradients together, as in `torch.nn.utils.clip_grad_norm_`; None for no clipping.
        max_value: largest absolute value of a gradient element, as in `torch.nn.utils.clip_grad_value_`; None for no
            clipping.
        source_layout: layout of `model`, or its name; None for the default layout of this kind of object.
        target_layout: layout of the parameters that the transformation will update, or its name.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; None for none.

    Raises:
        InputError: optax has no equivalent of this optimizer, or arguments are inconsistent.
        ConversionError: the parameters of `model` do not fit the layouts.
    """
    if isinstance(torch_optimizer, AveragedModel):
        _check_alone({"scheduler": scheduler, "steps": steps, "max_norm": max_norm, "max_value": max_value})
        return averaging_like(torch_optimizer)
    check_optimizer(torch_optimizer)
    _check_clipping(max_norm, max_value)
    groups = groups_of(torch_optimizer, scheduler)
    for group in groups:
        check_whole(group)
    rates = _rates(torch_optimizer, scheduler, steps)
    route = (
        None if model is None else Route(source_layout or open_container(model).layout, target_layout, axes)
    )
    labels = _labels(torch_optimizer, model, route)
    matrices = _matrices(torch_optimizer, model, route)
    parts = [step_of(group, rate, matrices) for group, rate in zip(groups, rates, strict=True)]

    def label_tree(tree: optax.Params) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _label(leaf_name(path), labels), tree)

    clipping = [clip_by_torch_norm(max_norm)] if max_norm is not None else []
    clipping += [optax.clip(max_value)] if max_value is not None else []
    used = set(labels.values()) or {0}
    if len(used) == 1 and FROZEN not in used:
        return optax.chain(*clipping, parts[used.pop()])
    transforms = {str(index): part for index, part in enumerate(parts)}
    stepping = optax.partition({**transforms, str(FROZEN): optax.set_to_zero()}, label_tree)
    # PyTorch's norm is over the trained parameters only.
    still = optax.masked(
        optax.set_to_zero(), lambda tree: jax.tree.map(lambda label: label == str(FROZEN), label_tree(tree))
    )
    return optax.chain(still, *clipping, stepping)


def _check_alone(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} is for optimizers, but got {value!r} with an AveragedModel")


def _check_clipping(max_norm: float | None, max_value: float | None) -> None:
    if max_norm is not None and max_value is not None:
        raise InputError("max_norm and max_value are two ways of clipping: give one of them")
    for name, value in (("max_norm", max_norm), ("max_value", max_value)):
        if value is not None and not value > 0:
            raise InputError(f"{name} is greater than 0, but got {value!r}")


def _rates(optimizers: Optimizers, schedulers: Any, steps: int | None) -> list[GroupRates | None]:
    """The scheduled settings of each parameter group; None for constant ones."""
    if schedulers is None and steps is not None:
        raise InputError(f"steps goes with a scheduler, but got steps={steps!r} without one")
    rates: list[GroupRates | None] = []
    for optimizer, scheduler in pairs_of(optimizers, schedulers):
        if scheduler is not None:
            rates += look_ahead(scheduler, optimizer, steps)
            continue
        if any("initial_lr" in group for group in optimizer.param_groups):
            raise InputError("torch_optimizer has a scheduler of its learning rate: give it as scheduler")
        rates += [None] * len(optimizer.param_groups)
    return rates


def _labels(optimizers: Optimizers, model: torch.nn.Module | None, route: Route | None) -> dict[str, int]:
    """The parameter group of each leaf, by name in JAX, or `FROZEN`; empty if all parameters are in one group."""
    groups = groups_of(optimizers)
    group_of = {
        id(parameter): index if parameter.requires_grad else FROZEN
        for index, group in enumerate(groups)
        for parameter in group.settings["params"]
    }
    if model is None or route is None:
        if set(group_of.values()) == {0}:
            return {}
        raise InputError(
            f"model is needed to match {len(groups)} parameter groups, or frozen parameters, by name"
        )
    check_model(optimizers, model)
    parameters = dict(model.named_parameters())
    return spread(
        {name: group_of.get(id(parameter), FROZEN) for name, parameter in parameters.items()},
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        route,
        f"parameter group ({FROZEN} means none)",
    )


def _matrices(optimizers: Optimizers, model: torch.nn.Module | None, route: Route | None) -> Matrices:
    """The rows and columns of each leaf that an update rule treats as a whole; empty if no rule does."""
    rules = {
        id(parameter): group.rule
        for group in groups_of(optimizers)
        if group.rule in WHOLE
        for parameter in group.settings["params"]
        if parameter.requires_grad
    }
    if not rules:
        return {}
    if model is None or route is None:
        raise InputError(
            f"model is needed to match the rows and columns of {next(iter(rules.values()))}'s matrices"
        )
    parameters = dict(model.named_parameters())
    return matrices_of(
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        {name: rules[id(parameter)] for name, parameter in parameters.items() if id(parameter) in rules},
        route,
    )


def _label(name: str, labels: Mapping[str, int]) -> str:
    if name not in labels:
        raise InputError(f"{name} is among the parameters in JAX, but no parameter of model becomes it")
    return str(labels[name])
