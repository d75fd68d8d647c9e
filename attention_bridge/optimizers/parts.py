"""The parts of an optax state that have an equivalent in a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from attention_bridge.errors import InputError
from attention_bridge.optimizers.adafactor import AdafactorState
from attention_bridge.optimizers.adafactor_of_transformers import (
    AveragedAdafactorState,
    RelativeAdafactorState,
)
from attention_bridge.optimizers.muon import MuonMomentumState
from attention_bridge.optimizers.rms import CenteredRmsState, RmsState
from attention_bridge.optimizers.steps import StartedTraceState

_ADAFACTOR = {"row": "exp_avg_sq_row", "column": "exp_avg_sq_col", "variance": "exp_avg_sq", "size": "RMS"}

# The fields of each part with a moment, and their names in torch.
MOMENTS: dict[type, dict[str, str]] = {
    optax.ScaleByAdamState: {"mu": "exp_avg", "nu": "exp_avg_sq"},
    optax.ScaleByAmsgradState: {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    optax.ScaleByLionState: {"mu": "exp_avg"},
    optax.TraceState: {"trace": "momentum_buffer"},
    StartedTraceState: {"trace": "momentum_buffer"},
    MuonMomentumState: {"mu": "momentum_buffer"},
    optax.ScaleByRmsState: {"nu": "square_avg"},
    optax.ScaleByRStdDevState: {"mu": "grad_avg", "nu": "square_avg"},
    RmsState: {"nu": "square_avg"},
    CenteredRmsState: {"mu": "grad_avg", "nu": "square_avg"},
    AdafactorState: {"row": "row_var", "column": "col_var", "variance": "variance"},
    RelativeAdafactorState: _ADAFACTOR,
    AveragedAdafactorState: {**_ADAFACTOR, "mu": "exp_avg"},
}
# optax.rmsprop without momentum; its momentum buffer would hold steps times the learning rate.
_PLAIN_RMS = (optax.ScaleByRmsState, optax.ScaleByRStdDevState)
# Parts without a step count in torch or in optax: a moment of zeros means no step yet.
UNCOUNTED = (optax.TraceState, optax.ScaleByLionState, MuonMomentumState, *_PLAIN_RMS)
# Parts of optax's optimizers that keep something else than PyTorch's.
_OTHER = {
    optax.FactoredState: "optax.adafactor factors other axes than PyTorch's Adafactor",
    optax.contrib.MuonState: "optax.contrib.muon counts steps, which PyTorch's Muon does not",
}
KNOWN = (*MOMENTS, optax.ScaleByScheduleState)


def is_part(node: Any) -> bool:
    """Whether a node of an optax state is one of the known parts."""
    return isinstance(node, KNOWN)


def _is_whole(node: Any) -> bool:
    return is_part(node) or isinstance(node, tuple(_OTHER))


def map_parts(function: Callable[[Any], Any], state: optax.OptState) -> Any:
    """Apply a function to each part of an optax state.

    Raises:
        InputError: a node of the state belongs to no known part.
    """

    def apply(path: tuple[Any, ...], node: Any) -> Any:
        if isinstance(node, tuple(_OTHER)):
            raise InputError(f"{_OTHER[type(node)]}: build the transformation with optimizer_like")
        if not is_part(node):
            raise InputError(
                f"the optax state has {jax.tree_util.keystr(path)}, which no torch optimizer has; supported are "
                f"{', '.join(part.__name__ for part in KNOWN)}"
            )
        return function(node)

    return jax.tree_util.tree_map_with_path(apply, state, is_leaf=_is_whole)


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
    if any(isinstance(part, _PLAIN_RMS) for part in parts) and "momentum_buffer" in held:
        raise InputError(
            "optax.rmsprop keeps its momentum times the learning rate, PyTorch's RMSprop without it: build the "
            "transformation with optimizer_like"
        )
    if held != wanted:
        raise InputError(f"torch_optimizer keeps {_list(wanted)}, but the optax state keeps {_list(held)}")


def _list(kinds: set[str]) -> str:
    return ", ".join(sorted(kinds)) or "no moments"
