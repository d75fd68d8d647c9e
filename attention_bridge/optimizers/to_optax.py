"""Conversion of a torch optimizer to an equivalent optax transformation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax
import torch

from attention_bridge.errors import InputError
from attention_bridge.optimizers.names import Route, leaf_name, spread
from attention_bridge.optimizers.options import check_model, check_optimizer
from attention_bridge.optimizers.schedules import GroupRates, look_ahead
from attention_bridge.optimizers.steps import (
    Rate,
    clip_by_torch_norm,
    scale_by_torch_adam,
    trace_from_first,
)
from attention_bridge.weights import Layout
from attention_bridge.weights.containers import open_container

FROZEN = -1


def optimizer_like(
    torch_optimizer: torch.optim.Optimizer,
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
        torch_optimizer: `SGD`, `Adam` or `AdamW`, with one or more parameter groups; it is not changed.
        model: model that the optimizer trains; its parameter names identify the parameter groups. None is allowed if
            all parameters are in one group.
        scheduler: scheduler of `torch.optim.lr_scheduler`, stepped after each step of the optimizer; None for constant
            learning rates.
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
    check_optimizer(torch_optimizer)
    _check_clipping(max_norm, max_value)
    groups = torch_optimizer.param_groups
    if scheduler is not None:
        rates: list[GroupRates | None] = [*look_ahead(scheduler, torch_optimizer, steps)]
    elif steps is not None:
        raise InputError(f"steps goes with a scheduler, but got steps={steps!r} without one")
    elif any("initial_lr" in group for group in groups):
        raise InputError("torch_optimizer has a scheduler of its learning rate: give it as scheduler")
    else:
        rates = [None] * len(groups)
    labels = _labels(torch_optimizer, model, source_layout, target_layout, axes)
    parts = [_step_of(group, rate) for group, rate in zip(groups, rates, strict=True)]

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


def _check_clipping(max_norm: float | None, max_value: float | None) -> None:
    if max_norm is not None and max_value is not None:
        raise InputError("max_norm and max_value are two ways of clipping: give one of them")
    for name, value in (("max_norm", max_norm), ("max_value", max_value)):
        if value is not None and not value > 0:
            raise InputError(f"{name} is greater than 0, but got {value!r}")


def _labels(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module | None,
    source_layout: Layout | str | None,
    target_layout: Layout | str,
    axes: Mapping[str, int] | None,
) -> dict[str, int]:
    """The parameter group of each leaf, by name in JAX, or `FROZEN`; empty if all parameters are in one group."""
    group_of = {
        id(parameter): index if parameter.requires_grad else FROZEN
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    if model is None:
        if set(group_of.values()) == {0}:
            return {}
        raise InputError(
            f"model is needed to match {len(optimizer.param_groups)} parameter groups, or frozen parameters, by name"
        )
    check_model(optimizer, model)
    parameters = dict(model.named_parameters())
    return spread(
        {name: group_of.get(id(parameter), FROZEN) for name, parameter in parameters.items()},
        {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        Route(source_layout or open_container(model).layout, target_layout, axes),
        f"parameter group ({FROZEN} means none)",
    )


def _label(name: str, labels: Mapping[str, int]) -> str:
    if name not in labels:
        raise InputError(f"{name} is among the parameters in JAX, but no parameter of model becomes it")
    return str(labels[name])


def _step_of(group: dict[str, Any], rates: GroupRates | None) -> optax.GradientTransformation:
    """The transformation of the gradients of one parameter group."""
    lr: Rate = float(group["lr"]) if rates is None else rates.lr
    scheduled = None if rates is None else rates.momentum
    decay = float(group["weight_decay"])
    decoupled = group.get("decoupled_weight_decay", False)
    parts = [optax.scale(-1.0)] if group["maximize"] else []
    if decay and not decoupled:
        parts.append(optax.add_decayed_weights(decay))
    if "betas" in group:
        b1, b2 = map(float, group["betas"])
        adam = scale_by_torch_adam(scheduled or b1, b2, float(group["eps"]), amsgrad=group["amsgrad"])
        parts.append(adam)
    elif group["momentum"]:
        parts.append(_momentum(group, scheduled))
    if decay and decoupled:
        # p - lr * wd * p may come before the step or in it: both use the old p.
        parts.append(optax.add_decayed_weights(decay))
    return optax.chain(*parts, optax.scale_by_learning_rate(lr))


def _momentum(group: dict[str, Any], scheduled: Rate | None) -> optax.GradientTransformation:
    decay, dampening, nesterov = float(group["momentum"]), float(group["dampening"]), group["nesterov"]
    if dampening or scheduled:
        return trace_from_first(scheduled or decay, dampening=dampening, nesterov=nesterov)
    return optax.trace(decay, nesterov)
