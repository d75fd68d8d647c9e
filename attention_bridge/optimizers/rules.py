"""The optax transformation of each torch update rule."""

from __future__ import annotations

from typing import Any

import optax

from attention_bridge.optimizers.adafactor import torch_adafactor
from attention_bridge.optimizers.adafactor_of_transformers import transformers_adafactor
from attention_bridge.optimizers.lion import scale_by_torch_lion
from attention_bridge.optimizers.matrices import Matrices
from attention_bridge.optimizers.muon import scale_by_torch_muon
from attention_bridge.optimizers.options import Group
from attention_bridge.optimizers.rms import scale_by_torch_rms
from attention_bridge.optimizers.schedules import GroupRates
from attention_bridge.optimizers.steps import Rate, scale_by_torch_adam, trace_from_first


def step_of(group: Group, rates: GroupRates | None, matrices: Matrices) -> optax.GradientTransformation:
    """The transformation of the gradients of one parameter group.

    Args:
        group: the parameter group.
        rates: its scheduled settings; None for constant ones.
        matrices: the rows and columns of each leaf, for rules that treat parameters as a whole.
    """
    settings = group.settings
    parts = [optax.scale(-1.0)] if settings.get("maximize") else []
    lr: Any = settings["lr"] if rates is None else rates.lr
    lr = lr if callable(lr) or lr is None else float(lr)
    if group.rule == "torch.optim.Adafactor":
        return optax.chain(*parts, _adafactor(settings, lr, matrices))
    if group.rule == "transformers.Adafactor":
        return _transformers_adafactor(settings, lr, matrices)
    decay = float(settings["weight_decay"])
    decoupled = settings.get("decoupled_weight_decay", group.rule in ("torch.optim.Muon", "Lion"))
    if decay and not decoupled:
        parts.append(optax.add_decayed_weights(decay))
    parts += _direction(group, None if rates is None else rates.momentum, matrices)
    if decay and decoupled:
        # p - lr * wd * p may come before the step or in it: both use the old p.
        parts.append(optax.add_decayed_weights(decay))
    return optax.chain(*parts, optax.scale_by_learning_rate(lr))


def _direction(
    group: Group, scheduled: Rate | None, matrices: Matrices
) -> list[optax.GradientTransformation]:
    """The update direction, which the learning rate multiplies, without decoupled weight decay."""
    settings = group.settings
    match group.rule:
        case "torch.optim.SGD":
            return [_momentum(settings, scheduled)] if settings["momentum"] else []
        case "torch.optim.RMSprop":
            scale = scale_by_torch_rms(
                float(settings["alpha"]), float(settings["eps"]), centered=settings["centered"]
            )
            return [scale, _momentum(settings, scheduled)] if settings["momentum"] else [scale]
        case "torch.optim.Muon":
            muon = scale_by_torch_muon(
                scheduled or float(settings["momentum"]),
                matrices,
                nesterov=settings["nesterov"],
                coefficients=settings["ns_coefficients"],
                eps=float(settings["eps"]),
                steps=settings["ns_steps"],
                adjustment=settings["adjust_lr_fn"],
            )
            return [muon]
        case "Lion":
            b1, b2 = map(float, settings["betas"])
            return [scale_by_torch_lion(scheduled or b1, b2)]
        case _:
            b1, b2 = map(float, settings["betas"])
            eps = float(settings["eps"])
            return [scale_by_torch_adam(scheduled or b1, b2, eps, amsgrad=settings["amsgrad"])]


def _momentum(settings: Any, scheduled: Rate | None) -> optax.GradientTransformation:
    decay, dampening = float(settings["momentum"]), float(settings.get("dampening", 0.0))
    nesterov = settings.get("nesterov", False)
    if dampening or scheduled:
        return trace_from_first(scheduled or decay, dampening=dampening, nesterov=nesterov)
    return optax.trace(decay, nesterov)


def _adafactor(settings: Any, lr: Rate, matrices: Matrices) -> optax.GradientTransformation:
    return torch_adafactor(
        lr,
        matrices,
        decay=float(settings["beta2_decay"]),
        eps=settings["eps"],
        clipping=float(settings["d"]),
        weight_decay=float(settings["weight_decay"]),
    )


def _transformers_adafactor(
    settings: Any, lr: Rate | None, matrices: Matrices
) -> optax.GradientTransformation:
    return transformers_adafactor(
        None if settings["relative_step"] else lr,
        matrices,
        decay=float(settings["decay_rate"]),
        eps=settings["eps"],
        clipping=float(settings["clip_threshold"]),
        beta1=settings["beta1"],
        weight_decay=float(settings["weight_decay"]),
        scaled=settings["scale_parameter"],
        warmup=settings["warmup_init"],
    )
