"""Conversion of a torch optimizer's state to the state of an optax transformation, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
import torch
from torch.optim.swa_utils import AveragedModel

from attention_bridge.errors import InputError
from attention_bridge.optimizers.averages import averages_to_optax, check_no_scheduler
from attention_bridge.optimizers.moments import expanded, moments_of, steps_taken
from attention_bridge.optimizers.names import Route, named_leaves, spread, with_leaves
from attention_bridge.optimizers.options import (
    Optimizers,
    check_model,
    check_optimizer,
    groups_of,
    optimizers_of,
    pairs_of,
)
from attention_bridge.optimizers.parts import MOMENTS, UNCOUNTED, check_kinds, map_parts, parts_of
from attention_bridge.optimizers.schedules import check_scheduler, common_position, position
from attention_bridge.optimizers.steps import StartedTraceState
from attention_bridge.weights import Layout
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import like


def optimizer_state_to_optax(
    torch_optimizer: Optimizers | AveragedModel,
    model: torch.nn.Module,
    transformation: optax.GradientTransformation,
    params: Any,
    *,
    scheduler: Any = None,
    source_layout: Layout | str | None = None,
    target_layout: Layout | str | None = None,
    axes: Mapping[str, int] | None = None,
) -> Any:
    """Convert a torch optimizer's state to optax, so that a run in PyTorch can continue in JAX.

    Moments are converted like the weights. Before the first step the result equals `transformation.init(params)`.

    Args:
        torch_optimizer: an optimizer of the table in `attention_bridge.optimizers`, a list of optimizers that train one
            model together, or an `AveragedModel`; it is not changed.
        model: model that the optimizer trains.
        transformation: transformation from `optimizer_like`, or of the same optax parts.
        params: the converted parameters in JAX: an NNX state or a tree without collections.
        scheduler: scheduler of the torch optimizer; None if the transformation has no schedule. For a list of
            optimizers, a list with a scheduler or None for each.
        source_layout: layout of `model`, or its name; None for the default layout of this kind of object.
        target_layout: layout of `params`, or its name; None for the default layout of this kind of object.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; None for none.

    Returns:
        A state with the structure of `transformation.init(params)`.

    Raises:
        InputError: the transformation and the optimizer have different moments, parameters of one part of the
            transformation have different step counts, the scheduler is missing, or optax has no equivalent of the
            optimizer.
        ConversionError: parameters and moments do not fit the layouts or each other.
    """
    if isinstance(torch_optimizer, AveragedModel):
        check_no_scheduler(scheduler)
        layouts = (source_layout, target_layout, axes)
        return averages_to_optax(torch_optimizer, model, transformation, params, *layouts)
    check_optimizer(torch_optimizer)
    check_model(torch_optimizer, model)
    for optimizer, its in pairs_of(torch_optimizer, scheduler):
        if its is not None:
            check_scheduler(its, optimizer)
    at = common_position(scheduler)
    route = Route(
        source_layout or open_container(model).layout, target_layout or open_container(params).layout, axes
    )
    fresh = transformation.init(params)
    kinds = {kind for group in groups_of(torch_optimizer) for kind in moments_of(group)}
    check_kinds(parts_of(fresh), kinds)

    parameters = dict(model.named_parameters())
    states = {
        parameter: state
        for optimizer in optimizers_of(torch_optimizer)
        for parameter, state in optimizer.state.items()
    }
    held = {name: states.get(parameter, {}) for name, parameter in parameters.items()}
    moments = {kind: _moved(kind, held, parameters, params, route) for kind in sorted(kinds)}
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    steps = spread({name: steps_taken(state) for name, state in held.items()}, shapes, route, "steps taken")

    def fill(part: Any) -> Any:
        if isinstance(part, optax.ScaleByScheduleState):
            return part._replace(count=_number(part.count, _given(at)))
        fields = MOMENTS[type(part)]
        filled = {field: _fitted(getattr(part, field), moments[kind]) for field, kind in fields.items()}
        taken = _same(named_leaves(getattr(part, next(iter(fields)))), steps)
        if isinstance(part, StartedTraceState):
            filled |= {"count": _number(part.count, at or 0), "started": _number(part.started, taken > 0)}
        elif isinstance(part, UNCOUNTED):
            if "count" in part._fields:
                filled["count"] = _number(part.count, taken if at is None else at)
        else:
            _check_moved_momentum(torch_optimizer, scheduler, taken)
            filled["count"] = _number(part.count, taken)
        return part._replace(**filled)

    return map_parts(fill, fresh)


def _moved(
    kind: str,
    held: Mapping[str, Mapping[str, Any]],
    parameters: Mapping[str, torch.nn.Parameter],
    params: Any,
    route: Route,
) -> dict[str, Any]:
    """The moments of one kind, by name in JAX; zeros for parameters that have none yet."""
    given = {
        name: torch.zeros_like(parameter)
        if held[name].get(kind) is None
        else expanded(kind, held[name][kind], parameter)
        for name, parameter in parameters.items()
    }
    return named_leaves(route.carry(given, params))


def _fitted(tree: Any, moments: Mapping[str, Any]) -> Any:
    """The moments as a tree like `tree`, where an axis of size 1 means equal values along this axis."""
    leaves = {}
    for name, leaf in named_leaves(tree).items():
        moment = moments[name]
        if moment.shape != leaf.shape:
            first = tuple(slice(0, 1) if size == 1 else slice(None) for size in leaf.shape)
            moment = like(leaf, np.asarray(moment)[first])
        leaves[name] = moment
    return with_leaves(tree, leaves)


def _same(names: Mapping[str, Any], steps: Mapping[str, int]) -> int:
    """The common step count of all parameters of a part."""
    taken = {name: steps[name] for name in names}
    if len(set(taken.values())) > 1:
        least, most = min(taken, key=taken.__getitem__), max(taken, key=taken.__getitem__)
        raise InputError(
            "optax counts steps for a parameter group as a whole, but in torch_optimizer "
            f"{least} has taken {taken[least]} and {most} {taken[most]}"
        )
    return next(iter(taken.values()), 0)


def _given(at: int | None) -> int:
    if at is None:
        raise InputError(
            "the transformation follows a schedule: give the scheduler of torch_optimizer as scheduler"
        )
    return at


def _check_moved_momentum(optimizers: Optimizers, schedulers: Any, taken: int) -> None:
    """Check that scheduler and optimizer have the same step count, which indexes a scheduled beta of Adam."""
    for optimizer, scheduler in pairs_of(optimizers, schedulers):
        moves = scheduler is not None and any(
            {"max_momentum", "betas"} <= set(group) for group in optimizer.param_groups
        )
        if moves and position(scheduler) != taken:
            raise InputError(
                f"the scheduler moves Adam's first beta, so that it and torch_optimizer take the same steps, but it "
                f"has taken {position(scheduler)} and the optimizer {taken}"
            )


def _number(leaf: Any, value: int | bool) -> Any:
    """A number in the type and dtype of the leaf that it replaces."""
    return like(leaf, np.asarray(value, leaf.dtype))
