"""The parts of an optax state that have an equivalent in a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from attention_bridge.errors import InputError
from attention_bridge.optimizers.steps import StartedTraceState

# The fields of each part with one value per parameter element, and their names in torch.
MOMENTS: dict[type, dict[str, str]] = {
    optax.ScaleByAdamState: {"mu": "exp_avg", "nu": "exp_avg_sq"},
    optax.ScaleByAmsgradState: {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    optax.TraceState: {"trace": "momentum_buffer"},
    StartedTraceState: {"trace": "momentum_buffer"},
}
KNOWN = (*MOMENTS, optax.ScaleByScheduleState)


def is_part(node: Any) -> bool:
    """Whether a node of an optax state is one of the known parts."""
    return isinstance(node, KNOWN)


def map_parts(function: Callable[[Any], Any], state: optax.OptState) -> Any:
    """Apply a function to each part of an optax state.

    Raises:
        InputError: a node of the state belongs to no known part.
    """

    def apply(path: tuple[Any, ...], node: Any) -> Any:
        if not is_part(node):
            raise InputError(
                f"the optax state has {jax.tree_util.keystr(path)}, which no torch optimizer has; supported are "
                f"{', '.join(part.__name__ for part in KNOWN)}"
            )
        return function(node)

    return jax.tree_util.tree_map_with_path(apply, state, is_leaf=is_part)


def parts_of(state: optax.OptState) -> list[Any]:
    """The parts of an optax state.

    Raises:
        InputError: a node of the state belongs to no known part.
    """
    found: list[Any] = []
    map_parts(found.append, state)
    return found


def check_kinds(parts: list[Any], wanted: set[str]) -> None:
    """Check that the parts hold exactly the moments of the torch optimizer.

    Args:
        parts: parts of an optax state.
        wanted: names of the torch optimizer's moments.

    Raises:
        InputError: the moments differ.
    """
    held = {kind for part in parts for kind in MOMENTS.get(type(part), {}).values()}
    if held != wanted:
        raise InputError(f"torch_optimizer keeps {_list(wanted)}, but the optax state keeps {_list(held)}")


def _list(kinds: set[str]) -> str:
    return ", ".join(sorted(kinds)) or "no moments"
