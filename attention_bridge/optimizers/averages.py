"""Averages of weights: `torch.optim.swa_utils.AveragedModel` in optax, and its state in both directions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.optim.swa_utils import AveragedModel

from attention_bridge.errors import InputError
from attention_bridge.optimizers.names import Route, named_leaves, with_leaves
from attention_bridge.weights import Layout
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import like, to_numpy


class AverageState(NamedTuple):
    """The state of `average_from_first`.

    Attributes:
        count: number of averaged trees.
        average: average of the parameters.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    average: optax.Params


def average_from_first(weight: Callable[[Any], Any]) -> optax.GradientTransformation:
    """The average of parameters as in `AveragedModel`: the first ones, then average + weight * (p - average).

    `update(params, state)` returns the averages and the next state, as in `optax.ema`, whose average starts at zero.
    After the first parameters, `optax.incremental_update(params, average, 1 - decay)` is the same average.

    Args:
        weight: weight of new parameters, given the number of averaged trees.

    Returns:
        A transformation with an `AverageState`.
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.asarray, params))

    def update(
        updates: optax.Params, state: AverageState, params: optax.Params | None = None
    ) -> tuple[optax.Params, AverageState]:
        share = weight(state.count)
        average = jax.tree.map(
            lambda p, old: jnp.where(state.count == 0, p, old + share * (p - old)).astype(old.dtype),
            updates,
            state.average,
        )
        return average, AverageState(optax.safe_increment(state.count), average)

    return optax.GradientTransformation(init, update)


def averaging_like(averaged: AveragedModel) -> optax.GradientTransformation:
    """The transformation that averages parameters as an `AveragedModel` does.

    Raises:
        InputError: the averaging function is not one of PyTorch's own, or buffers are averaged.
    """
    if averaged.use_buffers and list(averaged.module.buffers()):
        raise InputError(
            "AveragedModel with use_buffers=True has no equivalent in optax, which averages parameters: set it to False"
        )
    function = averaged.multi_avg_fn or averaged.avg_fn
    name = getattr(function, "__qualname__", "") if _is_torchs(function) else ""
    if function is None or "swa_update" in name:
        # On accelerators and in the function of several tensors, PyTorch rounds the weight to float32.
        device = next(iter(averaged.module.parameters())).device.type
        exact = device == "cpu" if function is None else function is averaged.avg_fn
        return average_from_first(lambda count: 1 / (count + 1).astype(float if exact else jnp.float32))
    if "ema_update" not in name:
        raise InputError(
            "AveragedModel averages with get_ema_multi_avg_fn, get_ema_avg_fn or get_swa_multi_avg_fn of "
            f"torch.optim.swa_utils, or with none, but got {getattr(function, '__name__', function)}"
        )
    decay = float(inspect.getclosurevars(inspect.unwrap(function)).nonlocals["decay"])
    return average_from_first(lambda count: 1 - decay)


def averages_to_optax(
    averaged: AveragedModel,
    model: torch.nn.Module,
    transformation: optax.GradientTransformation,
    params: Any,
    source_layout: Layout | str | None,
    target_layout: Layout | str | None,
    axes: Mapping[str, int] | None,
) -> AverageState:
    """Convert the averaged weights and their count; arguments as in `optimizer_state_to_optax`."""
    check_averaged(averaged, model)
    fresh = transformation.init(params)
    _check_state(fresh)
    route = Route(
        source_layout or open_container(model).layout, target_layout or open_container(params).layout, axes
    )
    given = {name: parameter.detach() for name, parameter in averaged.module.named_parameters()}
    average = with_leaves(fresh.average, named_leaves(route.carry(given, params)))
    count = np.asarray(int(averaged.n_averaged), fresh.count.dtype)
    return AverageState(like(fresh.count, count), average)


def averages_to_torch(
    state: AverageState,
    params: Any,
    averaged: AveragedModel,
    model: torch.nn.Module,
    source_layout: Layout | str | None,
    target_layout: Layout | str | None,
    axes: Mapping[str, int] | None,
) -> AveragedModel:
    """Fill an `AveragedModel`; arguments as in `optimizer_state_to_torch`."""
    check_averaged(averaged, model)
    _check_state(state)
    route = Route(
        source_layout or open_container(params).layout, target_layout or open_container(model).layout, axes
    )
    wanted = {name: parameter.detach() for name, parameter in averaged.module.named_parameters()}
    held = {name: to_numpy(name, leaf) for name, leaf in named_leaves(state.average).items()}
    found = route.carry(held, wanted)
    with torch.no_grad():
        for name, parameter in averaged.module.named_parameters():
            parameter.copy_(found[name])
        averaged.n_averaged.fill_(int(np.asarray(state.count)))
    return averaged


def check_averaged(averaged: AveragedModel, model: Any) -> None:
    """Check that an `AveragedModel` averages the parameters of `model`.

    Raises:
        InputError: names or shapes differ, or `model` is not a torch module.
    """
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model is the torch.nn.Module whose weights are averaged, but got {type(model).__name__}"
        )
    ours, theirs = (
        {name: tuple(x.shape) for name, x in each.named_parameters()} for each in (averaged.module, model)
    )
    wrong = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    if wrong:
        raise InputError(
            f"the AveragedModel averages the parameters of model, but {wrong[0]} has shape {ours.get(wrong[0])} in it "
            f"and {theirs.get(wrong[0])} in model"
        )


def check_no_scheduler(scheduler: Any) -> None:
    """Check that no scheduler was given with an `AveragedModel`.

    Raises:
        InputError: there is a scheduler.
    """
    if scheduler is not None:
        raise InputError(
            f"scheduler is for optimizers, but got {type(scheduler).__name__} with an AveragedModel"
        )


def _is_torchs(function: Any) -> bool:
    return (
        getattr(inspect.unwrap(function), "__module__", None) == "torch.optim.swa_utils"
        if function
        else False
    )


def _check_state(state: Any) -> None:
    if isinstance(state, optax.EmaState):
        raise InputError(
            "the average of optax.ema starts at zero, and an AveragedModel starts with the first weights: build the "
            "transformation with optimizer_like(averaged_model)"
        )
    if not isinstance(state, AverageState):
        raise InputError(
            "opt_state is a state of the transformation optimizer_like(averaged_model), but got "
            f"{type(state).__name__}"
        )
