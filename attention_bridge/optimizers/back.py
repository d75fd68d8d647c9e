"""The state of an optax transformation as that of a torch optimizer, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import torch

from attention_bridge.errors import InputError
from attention_bridge.optimizers.names import Route, named_leaves, spread
from attention_bridge.optimizers.options import check_model, check_optimizer, moments_of
from attention_bridge.optimizers.parts import MOMENTS, check_kinds, parts_of
from attention_bridge.optimizers.schedules import advance, check_scheduler, position
from attention_bridge.optimizers.steps import StartedTraceState
from attention_bridge.weights import Layout
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import to_numpy


def optimizer_state_to_torch(
    opt_state: optax.OptState,
    params: Any,
    torch_optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    *,
    scheduler: Any = None,
    source_layout: Layout | str | None = None,
    target_layout: Layout | str | None = None,
    axes: Mapping[str, int] | None = None,
) -> torch.optim.Optimizer:
    """Fill a torch optimizer so that a run goes on as the optax transformation would.

    Moments move as the weights do. Settings of the optimizer, such as its learning rate, stay as they are, but for
    those that the scheduler moves.

    Args:
        opt_state: of a transformation from `optimizer_like` or made of the same parts of optax, or the `opt_state`
            of an `nnx.Optimizer`.
        params: the parameters in JAX.
        torch_optimizer: `SGD`, `Adam` or `AdamW`; what it held is replaced.
        model: that it trains.
        scheduler: of the torch optimizer, where the transformation follows one; it is stepped up to the count of
            the optax state.
        source_layout: the layout of `params`, as in `attention_bridge.weights.transfer`.
        target_layout: that of `model`, likewise.
        axes: sizes of axes that the shapes do not give, likewise.

    Returns:
        `torch_optimizer`.

    Raises:
        InputError: the transformation keeps other moments than the optimizer, a scheduler is missing or further
            on, or the optimizer has no partner.
        ConversionError: parameters and moments do not fit the layouts or each other.
    """
    check_optimizer(torch_optimizer)
    check_model(torch_optimizer, model)
    route = Route(
        source_layout or open_container(params).layout, target_layout or open_container(model).layout, axes
    )
    parts = parts_of(opt_state)
    kinds = {kind for group in torch_optimizer.param_groups for kind in moments_of(group)}
    check_kinds(parts, kinds)
    count = _schedule_count(parts)
    _check_position(scheduler, torch_optimizer, count)

    leaves = {name: to_numpy(name, leaf) for name, leaf in named_leaves(params).items()}
    wanted = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moments: dict[str, Any] = {}
    for kind in sorted(kinds):
        # Zeros for what the transformation leaves alone: packed weights move as a whole.
        held = {name: np.zeros_like(leaf) for name, leaf in leaves.items()} | _held(kind, parts)
        moments[kind] = route.carry(held, wanted)
    taken = dict.fromkeys(leaves, 0) | _steps(parts)
    steps = spread(taken, {name: leaf.shape for name, leaf in leaves.items()}, route, "steps taken")
    _load(torch_optimizer, model, moments, steps)
    if scheduler is not None:
        advance(scheduler, count or 0)
    return torch_optimizer


def _schedule_count(parts: list[Any]) -> int | None:
    """The step at which the schedules are, or None if there is no schedule."""
    counts = {_number(part.count) for part in parts if isinstance(part, optax.ScaleByScheduleState)}
    if len(counts) > 1:
        raise InputError(f"all schedules of the optax state are at one step, but got {sorted(counts)}")
    return next(iter(counts), None)


def _check_position(scheduler: Any, optimizer: torch.optim.Optimizer, count: int | None) -> None:
    if scheduler is None:
        if count is not None:
            raise InputError(
                f"the optax state follows a schedule, at step {count}: "
                "give the scheduler of torch_optimizer as scheduler"
            )
        return
    check_scheduler(scheduler, optimizer)
    if count is None:
        raise InputError("a scheduler was given, but the optax state follows no schedule")
    if position(scheduler) > count:
        raise InputError(
            f"the scheduler is stepped up to the optax state, which is at step {count}, "
            f"but it is at {position(scheduler)}"
        )


def _held(kind: str, parts: list[Any]) -> dict[str, np.ndarray]:
    """One kind of moments, of all parts, by the names of JAX."""
    return {
        name: to_numpy(name, leaf)
        for part in parts
        for field, held in MOMENTS.get(type(part), {}).items()
        if held == kind
        for name, leaf in named_leaves(getattr(part, field)).items()
    }


def _steps(parts: list[Any]) -> dict[str, int]:
    """The steps that each parameter took; for SGD, which does not count them, 1 if there is a buffer."""
    steps: dict[str, int] = {}
    for part in parts:
        if type(part) not in MOMENTS:
            continue
        names = named_leaves(getattr(part, next(iter(MOMENTS[type(part)]))))
        if isinstance(part, optax.TraceState):
            # A trace of zeros is what PyTorch has before the first step: no buffer.
            taken = int(any(np.asarray(leaf).any() for leaf in names.values()))
        elif isinstance(part, StartedTraceState):
            taken = _number(part.started)
        else:
            taken = _number(part.count)
        steps |= dict.fromkeys(names, taken)
    return steps


def _number(leaf: Any) -> int:
    """The whole number in an array or in a variable of NNX."""
    (array,) = jax.tree.leaves(leaf)
    return int(np.asarray(array))


def _load(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    moments: Mapping[str, Mapping[str, torch.Tensor]],
    steps: Mapping[str, int],
) -> None:
    """Give each parameter that took a step its state, the way that checkpoints are loaded."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    saved = optimizer.state_dict()
    saved["state"] = {}
    for group, numbered in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        for parameter, number in zip(group["params"], numbered["params"], strict=True):
            name = names[id(parameter)]
            if not steps[name]:
                continue
            state: dict[str, torch.Tensor] = {kind: moments[kind][name] for kind in moments_of(group)}
            if "betas" in group:
                # The dtype that PyTorch counts in: whole numbers up to 2^24, or 2^53 where float64 is the default.
                wide = torch.get_default_dtype() == torch.float64
                state["step"] = torch.tensor(
                    float(steps[name]), dtype=torch.float64 if wide else torch.float32
                )
            saved["state"][number] = state
    optimizer.load_state_dict(saved)
