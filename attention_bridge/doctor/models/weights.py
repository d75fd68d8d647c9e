"""The weights of a reference and of its port, tensor by tensor, and the port with the right ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import nnx

from attention_bridge.parity.couple import Couple
from attention_bridge.weights import convert
from attention_bridge.weights.containers import open_container, tied_names
from attention_bridge.weights.leaves import spec, to_numpy
from attention_bridge.weights.twins.alignment import Pair
from attention_bridge.weights.twins.modules import paired

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """Tensors of both models by the names and with the axes of the reference.

    Attributes:
        reference: tensors of the reference.
        port: tensors of the port, also if their shapes differ.
        lacking: names that only the reference has.
        extra: names of the port, in its own words, that the reference lacks.
        tied: groups of names that share one tensor of the reference.
    """

    reference: Arrays
    port: Arrays
    lacking: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    tied: list[list[str]] = field(default_factory=list)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a tensor of the port, or of the reference if the port lacks it."""
        return (self.port if name in self.port else self.reference)[name].dtype


def weights(couple: Couple) -> Weights:
    """Compare the tensors of a couple of models."""
    reference, port = open_container(couple.torch_module), open_container(couple.module)
    ours = {name: to_numpy(name, leaf) for name, leaf in reference.leaves.items()}
    tied = tied_names(reference.leaves)
    theirs = {name: to_numpy(name, leaf) for name, leaf in port.leaves.items()}
    if not couple.is_own:
        renamed = convert(theirs, port.layout, couple.layout or "torch_attention")[0]
        lacking = [name for name in ours if name not in renamed and not _shared(name, tied, renamed)]
        extra = [name for name in renamed if name not in ours]
        return Weights(ours, {name: x for name, x in renamed.items() if name in ours}, lacking, extra, tied)
    found = paired(couple.torch_module, couple.module, reference, port, couple.names or {})
    carried: Arrays = {}
    extra = [leaf.name for layer in found.target_left for leaf in layer.leaves]
    for pair in found.pairs:
        carried |= _carried(pair, theirs, ours)
        known = {role for leaf in pair.source.leaves for role in leaf.roles}
        extra += [leaf.name for leaf in pair.target.leaves if not known & {*leaf.roles}]
    lacking = [name for name in ours if name not in carried and not _shared(name, tied, carried)]
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    return Weights(ours, carried, lacking, extra, tied)


def _carried(pair: Pair, theirs: Arrays, ours: Arrays) -> Arrays:
    """The port's tensors of a pair of layers, with the names and axes of the reference."""
    given: Arrays = {}
    for leaf in pair.target.leaves:
        array = theirs[leaf.name]
        given |= leaf.canonical(array if leaf.number is None else array[leaf.number])
    return {
        leaf.name: leaf.stored(given, ours[leaf.name].shape)
        for leaf in pair.source.leaves
        if given.keys() >= {*leaf.roles}
    }


def repaired(couple: Couple) -> Any:
    """A copy of the port, an NNX module, with the weights of the reference wherever both have them."""
    copy = nnx.clone(couple.jax_module)
    port, reference = open_container(copy), open_container(couple.torch_module)
    ours = {name: to_numpy(name, leaf) for name, leaf in reference.leaves.items()}
    arrays = {name: to_numpy(name, leaf) for name, leaf in port.leaves.items()}
    if couple.is_own:
        for pair in paired(couple.torch_module, copy, reference, port, couple.names or {}).pairs:
            given: Arrays = {}
            for leaf in pair.source.leaves:
                given |= leaf.canonical(ours[leaf.name])
            for leaf in pair.target.leaves:
                if given.keys() >= {*leaf.roles}:
                    whole = spec(leaf.name, port.leaves[leaf.name]).shape
                    shape = whole if leaf.number is None else whole[1:]
                    _put(arrays, leaf.name, leaf.stored(given, shape), leaf.number)
    else:
        for name, array in convert(ours, couple.layout or "torch_attention", port.layout)[0].items():
            if name in arrays:
                _put(arrays, name, array, None)
    return port.put(arrays)


def _put(arrays: Arrays, name: str, array: np.ndarray, number: int | None) -> None:
    """Replace a tensor, or one layer of a stack, if the shapes are equal."""
    place = arrays[name] if number is None else arrays[name][number]
    if place.shape != array.shape:
        return
    if number is None:
        arrays[name] = array.astype(place.dtype)
    else:
        arrays[name] = arrays[name].copy()
        arrays[name][number] = array


def _shared(name: str, tied: list[list[str]], names: Any) -> bool:
    return any(name in group and any(other in names for other in group) for group in tied)
