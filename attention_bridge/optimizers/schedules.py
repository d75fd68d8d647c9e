"""Learning rates that a torch scheduler will give, looked up by the count of steps.

The figures are the scheduler's own: a copy of it is stepped, and what the optimizer would get is written down. So
they are the same to the last bit, whether the scheduler goes by a closed form, by a recursion or by any function
of Python, and the momentum that `OneCycleLR` and `CyclicLR` move comes along.
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
    """An optax schedule: `values[count - first]`, and NaN where there is no such value.

    A count outside the table means a state that was not converted or a run longer than was said: NaN shows it.
    """

    first: int
    values: np.ndarray

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        """The value at a count of steps."""
        place = jnp.asarray(count) - self.first
        known = (place >= 0) & (place < len(self.values))
        return jnp.where(known, jnp.asarray(self.values)[jnp.clip(place, 0, len(self.values) - 1)], jnp.nan)


class GroupRates(NamedTuple):
    """What a scheduler gives a parameter group from step to step.

    Attributes:
        lr: the learning rates.
        momentum: SGD's momentum or Adam's first beta, or None if the scheduler leaves it alone.
    """

    lr: Lookup
    momentum: Lookup | None


def look_ahead(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int | None) -> list[GroupRates]:
    """What each parameter group of `optimizer` will get, from the scheduler's position on.

    Args:
        scheduler: of `torch.optim.lr_scheduler`; it is left as it is.
        optimizer: that it schedules.
        steps: number of steps to come.

    Raises:
        InputError: the scheduler is another optimizer's, looks at a metric or ends earlier, or `steps` is not
            a positive whole number.
    """
    check_scheduler(scheduler, optimizer)
    if not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"with a scheduler, steps is the number of steps to come, at least 1, but got {steps!r}"
        )
    groups = [
        {k: copy.copy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups
    ]
    # In place of the optimizer: the copy then has no parameters or moments to copy.
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
    """Raise unless `scheduler` goes by the count of steps alone and is that of `optimizer`.

    Raises:
        InputError: it is not.
    """
    known = isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    if not known or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError(
            "scheduler is one of torch.optim.lr_scheduler that goes by the count of steps alone, "
            f"but got {type(scheduler).__name__}"
        )
    if scheduler.optimizer is not optimizer:
        raise InputError("scheduler is the one of the optimizer given, but got that of another optimizer")


def position(scheduler: Any) -> int:
    """The number of steps that a scheduler has taken."""
    while isinstance(scheduler, torch.optim.lr_scheduler.ChainedScheduler):
        scheduler = scheduler._schedulers[0]  # it keeps no count of its own
    return int(scheduler.last_epoch)


def advance(scheduler: Any, count: int) -> None:
    """Step `scheduler` until it has taken `count` steps."""
    while position(scheduler) < count:
        _step(scheduler)


def _step(scheduler: Any) -> None:
    with warnings.catch_warnings():
        # PyTorch expects a step of the optimizer before each, and here none is taken.
        warnings.simplefilter("ignore", UserWarning)
        scheduler.step()


def _rates(group: dict[str, Any]) -> tuple[float, float]:
    momentum = group["betas"][0] if "betas" in group else group["momentum"]
    return float(group["lr"]), float(momentum)
