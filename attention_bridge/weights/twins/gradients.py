"""Gradients of the parameters of one module, by the names of its twin's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.weights.containers import open_container, tied_names
from attention_bridge.weights.report import Report
from attention_bridge.weights.twins.alignment import Pair
from attention_bridge.weights.twins.carry import Arrays, Carrier
from attention_bridge.weights.twins.modules import paired


class Carried(NamedTuple):
    """Gradients of a module by the names of its twin.

    Attributes:
        gradients: gradients by name.
        absent: tensors of the twin whose gradient the module does not have: the biases of a GRU, of which one is
            inside the product with the reset gate.
    """

    gradients: dict[str, np.ndarray]
    absent: frozenset[str]


def gradients_by_twin(
    module: Any, twin: Any, gradients: Mapping[str, np.ndarray], names: Mapping[str, str] | None = None
) -> Carried:
    """Carry gradients from the names and axes of `module` to the ones of `twin`.

    A parameter that `twin` shares between several places, and `module` does not, has the sum of their gradients.

    Args:
        module: module that the gradients belong to.
        twin: module of the other framework with the same weights.
        gradients: gradients by the names of the tensors of `module`; tensors without one, such as running statistics,
            are left out.
        names: names of modules or paths of `twin`, and the names of `module` for them; None for none.

    Returns:
        The gradients by the names of the tensors of `twin`.

    Raises:
        ConversionError: the modules do not hold the same weights; lists all faults.
    """
    given, wanted = open_container(module), open_container(twin)
    report = Report("gradients", "gradients")
    found = paired(twin, module, wanted, given, names or {})
    report.faults += found.faults
    tensors = {
        name: np.asarray(gradients[name], np.float64) if name in gradients else np.zeros(leaf.shape)
        for name, leaf in given.leaves.items()
    }
    carrier = _GradientCarrier(
        tensors, {name: np.zeros(tuple(leaf.shape)) for name, leaf in wanted.leaves.items()}, report
    )
    for pair in found.pairs:
        carrier.carry(Pair(pair.target, pair.source))
    filled = carrier.finish()
    report.raise_faults()
    origins = {name: set(given) for name, given in carrier.origins.items()}
    dtypes = {
        name: {array.dtype for each, array in gradients.items() if each in origins[name]}
        or {np.dtype(np.float64)}
        for name in filled
        if name not in carrier.absent and (not origins[name] or origins[name] & gradients.keys())
    }
    result = {name: filled[name].astype(dtype.pop()) for name, dtype in dtypes.items()}
    for same in tied_names(wanted.leaves):
        result |= _summed(same, result, origins)
    return Carried(result, frozenset(carrier.absent))


def _summed(same: list[str], gradients: Mapping[str, np.ndarray], origins: Mapping[str, set[str]]) -> Arrays:
    """One gradient for all names of a shared tensor: the sum over the different tensors that it comes from."""
    counted: set[str] = set()
    total: np.ndarray | None = None
    for name in same:
        if name in gradients and not origins[name] & counted:
            counted |= origins[name]
            total = gradients[name] if total is None else total + gradients[name]
    return {} if total is None else dict.fromkeys(same, total)


class _GradientCarrier(Carrier):
    """A carrier of gradients: biases that are added to each other have the same one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.absent: set[str] = set()

    def _cell(self, pair: Pair, given: Arrays, missing: set[str], spare: set[str]) -> None:
        for role in missing:
            other = role.replace("ih", "hh") if role.startswith("ih") else role.replace("hh", "ih")
            if " bias " not in role or other not in given:
                continue
            given[role] = given[other]
            if pair.source.kind == "gru" and role == "hh bias 2":
                self.absent |= {leaf.name for leaf in pair.target.leaves if role in leaf.roles}
        for role in spare:
            if " bias " in role:
                del given[role]
