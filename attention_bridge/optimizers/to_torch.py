"""Conversion of an optax state to the state of a torch optimizer, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import torch
from torch.optim.swa_utils import AveragedModel

from attention_bridge.errors import InputError
from attention_bridge.optimizers.averages import averages_to_torch, check_no_scheduler
from attention_bridge.optimizers.moments import moments_for, moments_of, reduced, step_count
from attention_bridge.optimizers.names import Route, named_leaves, spread
from attention_bridge.optimizers.options import (
    Group,
    Optimizers,
    check_model,
    check_optimizer,
    groups_of,
    pairs_of,
    rule_of,
)
from attention_bridge.optimizers.parts import MOMENTS, UNCOUNTED, check_kinds, parts_of
from attention_bridge.optimizers.schedules import advance, check_scheduler, position
from attention_bridge.optimizers.steps import StartedTraceState
from attention_bridge.weights import Layout
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import to_numpy


def optimizer_state_to_torch(
    opt_state: optax.OptState,
    params: Any,
    torch_optimizer: Optimizers | AveragedModel,
    model: torch.nn.Module,
    *,
    scheduler: Any = None,
    source_layout: Layout | str | None = None,
    target_layout: Layout | str | None = None,
    axes: Mapping[str, int] | None = None,
) -> Optimizers | AveragedModel:
    """Fill a torch optimizer with an optax state, so that a run in JAX can continue in PyTorch.

    Moments are converted like the weights. Settings of the optimizer, such as its learning rate, stay unchanged, except
    those that the scheduler controls.

    Args:
        opt_state: state of a transformation from `optimizer_like` or of the same optax parts, or the `opt_state` of an
            `nnx.Optimizer`.
        params: the parameters in JAX.
        torch_optimizer: an optimizer of the table in `attention_bridge.optimizers`, a list of optimizers that train one
            model together, or an `AveragedModel`; its state is replaced.
        model: model that the optimizer trains.
        scheduler: scheduler of the torch optimizer; it is stepped up to the step count of the optax state. None if the
            transformation has no schedule. For a list of optimizers, a list with a scheduler or None for each.
        source_layout: layout of `params`, or its name; None for the default layout of this kind of object.
        target_layout: layout of `model`, or its name; None for the default layout of this kind of object.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; None for none.

    Returns:
        `torch_optimizer`.

    Raises:
        InputError: the transformation and the optimizer have different moments, the scheduler is missing or ahead of
            the optax state, or optax has no equivalent of the optimizer.
        ConversionError: parameters and moments do not fit the layouts or each other.
    """
    if isinstance(torch_optimizer, AveragedModel):
        check_no_scheduler(scheduler)
        layouts = (source_layout, target_layout, axes)
        return averages_to_torch(opt_state, params, torch_optimizer, model, *layouts)
    check_optimizer(torch_optimizer)
    check_model(torch_optimizer, model)
    route = Route(
        source_layout or open_container(params).layout, target_layout or open_container(model).layout, axes
    )
    parts = parts_of(opt_state)
    kinds = {kind for group in groups_of(torch_optimizer) for kind in moments_of(group)}
    check_kinds(parts, kinds)
    count = _schedule_count(parts)
    _check_position(scheduler, torch_optimizer, count)

    leaves = {name: to_numpy(name, leaf) for name, leaf in named_leaves(params).items()}
    wanted = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moments: dict[str, Any] = {}
    for kind in sorted(kinds):
        # Parameters that the transformation does not update get zeros: packed weights are converted as a whole.
        held = {name: np.zeros_like(leaf) for name, leaf in leaves.items()} | _held(kind, parts, leaves)
        moments[kind] = route.carry(held, wanted)
    taken = dict.fromkeys(leaves, 0) | _steps(parts)
    steps = spread(taken, {name: leaf.shape for name, leaf in leaves.items()}, route, "steps taken")
    for optimizer, its in pairs_of(torch_optimizer, scheduler):
        _load(optimizer, model, moments, steps)
        if its is not None:
            advance(its, count or 0)
    return torch_optimizer


def _schedule_count(parts: list[Any]) -> int | None:
    """The step count of the schedules, or None if there is no schedule."""
    counts = {_number(part.count) for part in parts if isinstance(part, optax.ScaleByScheduleState)}
    if len(counts) > 1:
        raise InputError(f"all schedules of the optax state are at one step, but got {sorted(counts)}")
    return next(iter(counts), None)


def _check_position(schedulers: Any, optimizers: Optimizers, count: int | None) -> None:
    pairs = pairs_of(optimizers, schedulers)
    if all(scheduler is None for _, scheduler in pairs):
        if count is not None:
            raise InputError(
                f"the optax state follows a schedule, at step {count}: "
                "give the scheduler of torch_optimizer as scheduler"
            )
        return
    for optimizer, scheduler in pairs:
        if scheduler is None:
            continue
        check_scheduler(scheduler, optimizer)
        if count is None:
            raise InputError("a scheduler was given, but the optax state follows no schedule")
        if position(scheduler) > count:
            raise InputError(
                f"the scheduler is stepped up to the optax state, which is at step {count}, "
                f"but it is at {position(scheduler)}"
            )


def _held(kind: str, parts: list[Any], leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The moments of one kind, of all parts, by name in JAX and in the shapes of their parameters."""
    return {
        name: np.broadcast_to(to_numpy(name, leaf), leaves[name].shape)
        for part in parts
        for field, held in MOMENTS.get(type(part), {}).items()
        if held == kind
        for name, leaf in named_leaves(getattr(part, field)).items()
    }


def _steps(parts: list[Any]) -> dict[str, int]:
    """The step count of each parameter; for rules that count no steps, 1 if there is a moment."""
    steps: dict[str, int] = {}
    for part in parts:
        if type(part) not in MOMENTS:
            continue
        names = named_leaves(getattr(part, next(iter(MOMENTS[type(part)]))))
        if isinstance(part, UNCOUNTED):
            # Moments of zeros mean no step yet; PyTorch then has none.
            taken = int(any(np.asarray(leaf).any() for leaf in names.values()))
        elif isinstance(part, StartedTraceState):
            taken = _number(part.started)
        else:
            taken = _number(part.count)
        # RMSprop with momentum has two parts, one of which counts.
        steps |= {name: max(taken, steps.get(name, 0)) for name in names}
    return steps


def _number(leaf: Any) -> int:
    """The integer in an array or in an NNX variable."""
    (array,) = jax.tree.leaves(leaf)
    return int(np.asarray(array))


def _load(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    moments: Mapping[str, Mapping[str, torch.Tensor]],
    steps: Mapping[str, int],
) -> None:
    """Load the state of each parameter that took a step, through `load_state_dict`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    saved = optimizer.state_dict()
    saved["state"] = {}
    for settings, numbered in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group = Group(str(rule_of(optimizer)), settings)
        for parameter, number in zip(settings["params"], numbered["params"], strict=True):
            name = names[id(parameter)]
            if steps[name]:
                held = {kind: reduced(kind, moments[kind][name]) for kind in moments_for(group, parameter)}
                saved["state"][number] = step_count(group, steps[name]) | held
    optimizer.load_state_dict(saved)
