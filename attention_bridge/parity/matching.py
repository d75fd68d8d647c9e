"""Outputs of two models under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attention_bridge.errors import InputError

Outputs = Mapping[str, str] | Callable[[Any], Any] | None
Arrays = dict[str, np.ndarray]


def matched(ours: Arrays, theirs: Arrays, outputs: Outputs) -> tuple[Arrays, Arrays]:
    """The outputs of both models by the names of the first.

    Args:
        ours: outputs of the PyTorch model by name.
        theirs: outputs of the JAX model by name.
        outputs: names of PyTorch's outputs to be compared, and JAX's names for them. Otherwise all outputs are
            compared, by name if the names are the same, else in their order if the shapes are the same.

    Raises:
        InputError: a name is unknown, or the outputs do not match.
    """
    if isinstance(outputs, Mapping):
        for side, names, given in (
            ("PyTorch", outputs.keys(), ours),
            ("JAX", {*outputs.values()}, theirs),
        ):
            for name in sorted(names - given.keys()):
                raise InputError(
                    f"outputs must name outputs of both models, but {name!r} is none of {side}'s: {_listed(given)}"
                )
        return {name: ours[name] for name in outputs}, {
            name: theirs[other] for name, other in outputs.items()
        }
    if ours.keys() == theirs.keys():
        return ours, theirs
    if [x.shape for x in ours.values()] == [x.shape for x in theirs.values()]:
        return ours, dict(zip(ours, theirs.values(), strict=True))
    raise InputError(
        "both models must return the same outputs, or outputs={'name in PyTorch': 'name in JAX'} must say which are "
        f"compared; PyTorch returns {_listed(ours)}, and JAX returns {_listed(theirs)}"
    )


def _listed(arrays: Arrays) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
