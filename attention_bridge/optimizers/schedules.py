"""Conversion of torch learning-rate schedulers to optax schedules, as tables of rates by step.

A copy of the scheduler is stepped, and its rates are recorded. So the rates are bitwise equal for any scheduler, be it
a closed form, a recursion or a Python function, and the momentum of `OneCycleLR` and `CyclicLR` is included.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from attention_bridge.errors import InputError


@dataclass(frozen=True, eq=False)
class Lookup:
    """An optax schedule from a table: `values[count - first]`, and NaN outside the table.

    NaN reveals a state that was not converted, or a run that is longer than the given number of steps.
    """

    first: int
    values: np.ndarray

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        """The value at a step count."""
        place = jnp.asarray(count) - self.first
        known = (place >= 0) & (place < len(self.values))
        return jnp.where(known, jnp.asarray(self.values)[jnp.clip(place, 0, len(self.values) - 1)], jnp.nan)


class GroupRates(NamedTuple):
    """The scheduled settings of a parameter group.

    Attributes:
        lr: learning rates.
        momentum: values of the momentum, or of the first beta of Adam and Lion; None if the scheduler changes
            neither.
    """

    lr: Lookup
    momentum: Lookup | None


def look_ahead(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int | None) -> list[GroupRates]:
    """Tabulate the future rates of each parameter group, from the scheduler's current step.

    Args:
        scheduler: scheduler of `torch.optim.lr_scheduler`; it is not changed.
        optimizer: optimizer of the scheduler.
        steps: number of future steps.

    Raises:
        InputError: the scheduler belongs to another optimizer, depends on a metric or ends earlier, or `steps` is not
            a positive integer.
    """
    check_scheduler(scheduler, optimizer)
    if not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"with a scheduler, steps is the number of steps to come, at least 1, but got {steps!r}"
        )
    groups = [
        {k: copy.copy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups
    ]
    # A placeholder for the optimizer, so that no parameters or moments are copied.
    stand_in = SimpleNamespace(param_groups=groups, step=None)
    twin = copy.deepcopy(scheduler, {id(optimizer): stand_in})
    rows = [[_rates(group) for group in groups]]
    for _ in range(steps - 1):
        try:
            _step(twin)
        except ValueError as error:
            raise InputError(
                f"steps is {steps}, but {type(scheduler).__name__} ends before that: {error}"
            ) from error
        rows.append([_rates(group) for group in groups])
    first = position(scheduler)
    table = np.array(rows, np.float64)  # step group (lr, momentum)
    return [
        GroupRates(
            Lookup(first, table[:, index, 0]),
            Lookup(first, table[:, index, 1]) if "max_momentum" in group else None,
        )
        for index, group in enumerate(groups)
    ]


def check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check that a scheduler belongs to `optimizer` and depends on the step count alone.

    Raises:
        InputError: a check fails.
    """
    known = isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    if not known or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError(
            "scheduler is one of torch.optim.lr_scheduler that depends on the step count alone, "
            f"but got {type(scheduler).__name__}"
        )
    if scheduler.optimizer is not optimizer:
        raise InputError(
            "scheduler belongs to the given optimizer, but got the scheduler of another optimizer"
        )


def position(scheduler: Any) -> int:
    """The number of steps that a scheduler has taken."""
    while isinstance(scheduler, torch.optim.lr_scheduler.ChainedScheduler):
        scheduler = scheduler._schedulers[0]  # a ChainedScheduler has no step count of its own
    return int(scheduler.last_epoch)


def common_position(schedulers: Any) -> int | None:
    """The number of steps that all schedulers of an argument have taken, or None if there is no scheduler.

    Raises:
        InputError: the schedulers have taken different numbers of steps.
    """
    each = schedulers if isinstance(schedulers, (list, tuple)) else (schedulers,)
    positions = sorted({position(scheduler) for scheduler in each if scheduler is not None})
    if len(positions) > 1:
        raise InputError(f"all schedulers have taken the same number of steps, but got {positions}")
    return positions[0] if positions else None


def advance(scheduler: Any, count: int) -> None:
    """Step `scheduler` until it has taken `count` steps."""
    while position(scheduler) < count:
        _step(scheduler)


def _step(scheduler: Any) -> None:
    with warnings.catch_warnings():
        # PyTorch warns if the optimizer took no step before; here it takes none.
        warnings.simplefilter("ignore", UserWarning)
        scheduler.step()


def _rates(group: dict[str, Any]) -> tuple[float, float]:
    momentum = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)  # Adafactor has none
    return float(group["lr"]), float(momentum)
