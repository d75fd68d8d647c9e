"""Layers of two models that hold the same values, and so belong together under any names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.weights.containers import Container, open_container
from attention_bridge.weights.leaves import to_numpy
from attention_bridge.weights.twins.layers import Layer
from attention_bridge.weights.twins.modules import layers_of


def names_by_values(reference: Any, port: Any) -> dict[str, str]:
    """Paths of the reference's layers, and paths of the port's layers with the same values.

    Layers whose values occur once in each model are paired; rounding to bfloat16 is ignored.
    """
    ours, theirs = (_held(module, open_container(module)) for module in (reference, port))
    return {
        ours[values][0]: theirs[values][0]
        for values in ours.keys() & theirs.keys()
        if len(ours[values]) == len(theirs[values]) == 1
    }


def _held(module: Any, container: Container) -> dict[Any, list[str]]:
    """The paths of the layers by kind and values."""
    tensors = {name: to_numpy(name, leaf) for name, leaf in container.leaves.items()}
    found: dict[Any, list[str]] = {}
    for each in layers_of(module, container):
        if each.path and all(leaf.number is None for leaf in each.leaves):
            found.setdefault(_values(each, tensors), []).append(".".join(each.path))
    return found


def _values(layer: Layer, tensors: Mapping[str, np.ndarray]) -> Any:
    canonical: dict[str, np.ndarray] = {}
    for leaf in layer.leaves:
        canonical |= leaf.canonical(tensors[leaf.name])
    return layer.kind, frozenset((role, _coarse(array)) for role, array in canonical.items())


def _coarse(array: np.ndarray) -> tuple[Iterable[int], bytes]:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype(np.float32).astype(ml_dtypes.bfloat16) if array.dtype.kind != "i" else array
    return array.shape, np.ascontiguousarray(rounded).tobytes()
