"""Weights from one live module to another, where neither belongs to the mirrors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from attention_bridge.errors import Fault, InputError
from attention_bridge.weights.containers import Container, tied_names
from attention_bridge.weights.leaves import framework, spec, to_numpy
from attention_bridge.weights.report import Note, Report
from attention_bridge.weights.twins.alignment import Alignment, Pair, align
from attention_bridge.weights.twins.carry import Carrier
from attention_bridge.weights.twins.layers import Layer
from attention_bridge.weights.twins.nnx_walk import nnx_layers
from attention_bridge.weights.twins.torch_walk import torch_layers
from attention_bridge.weights.twins.tree_walk import equinox_layers, tree_layers

MIRRORS = ("torch_attention.", "jax_attention.")


def are_twins(source: Any, target: Any) -> bool:
    """Whether both are modules of different frameworks, and neither has a module of the mirrors."""
    modules = [_framework(each) for each in (source, target)]
    return None not in modules and len({*modules}) == 2 and not any(map(_has_mirrors, (source, target)))


def may_be_twins(source: Any, target: Any, given: Container, wanted: Container) -> bool:
    """Whether both are modules or trees of arrays, and neither is a class of the mirrors."""
    return all(
        _framework(each) is not None or (isinstance(each, Mapping) and held.layout == "linen")
        for each, held in ((source, given), (target, wanted))
    ) and not any(type(each).__module__.startswith(MIRRORS) for each in (source, target))


def twins(
    source: Any, target: Any, given: Container, wanted: Container, names: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], Report]:
    """The target's tensors by name, and the report; arguments as in `transfer`."""
    report = Report(_title(source), _title(target))
    found = paired(source, target, given, wanted, names)
    report.faults += found.faults
    tensors = {name: to_numpy(name, leaf) for name, leaf in given.leaves.items()}
    carrier = Carrier(tensors, wanted.leaves, report)
    for pair in sorted(found.pairs, key=_is_alias):
        carrier.carry(pair)
    filled = carrier.finish()
    for same in tied_names(wanted.leaves):
        if len({filled[name].tobytes() for name in same if name in filled}) > 1:
            report.faults.append(Fault(", ".join(same), "clash", "one tensor, shared", "different values"))
    _leave(found.source_left, given, {name for match in report.matched for name in match.given}, report)
    _fill(found.target_left, wanted, filled, report)
    counters = [name for name in given.leaves if name.endswith("num_batches_tracked")]
    report.ignored += [
        Note(name, "the number of batches seen, which only PyTorch counts") for name in counters
    ]
    for name, leaf in wanted.leaves.items():
        if name.endswith("num_batches_tracked") and name not in filled:
            filled[name] = to_numpy(name, leaf)
            report.synthesised.append(Note(name, "the number of batches seen, as it was"))
    return filled, report


def paired(
    source: Any, target: Any, given: Container, wanted: Container, names: Mapping[str, str]
) -> Alignment:
    """The aligned layers of two modules; arguments as in `transfer`."""
    ours, theirs = layers_of(source, given), layers_of(target, wanted)
    _check_names(names, ours)
    return align(ours, theirs, names)


def _is_alias(pair: Pair) -> bool:
    """Whether a tensor of the target's layer is shared, and has its name from another layer."""
    path = ".".join(pair.target.path)
    return any(leaf.number is None and not leaf.name.startswith(path) for leaf in pair.target.leaves)


def layers_of(module: Any, container: Container) -> list[Layer]:
    """The layers of a module or tree of any framework.

    Raises:
        InputError: it is an object without types, such as a state dict.
    """
    torch, nnx = framework("torch"), framework("flax.nnx")
    if torch is not None and isinstance(module, torch.nn.Module):
        return torch_layers(module, container.leaves)
    if nnx is not None and isinstance(module, nnx.Module):
        return nnx_layers(module, container.leaves)
    if _is_equinox(module):
        return equinox_layers(module, container.leaves)
    if isinstance(module, Mapping) and container.layout == "linen":
        return tree_layers(container.leaves)
    raise InputError(
        "names= is for modules of PyTorch, Flax NNX or Equinox and for Linen or Haiku trees, "
        f"but got {type(module).__name__}"
    )


def _leave(layers: list[Layer], given: Container, used: set[str], report: Report) -> None:
    """Report the source's layers without a place, unless they share their tensors with others."""
    shared = _shared(given, used)
    for each in layers:
        for leaf in each.leaves:
            if leaf.name in shared:
                report.ignored.append(Note(leaf.name, f"shares its tensor with {shared[leaf.name]}"))
            elif leaf.number is not None or leaf.name not in used:
                shown = f"{tuple(given.leaves[leaf.name].shape)} {each.kind}"
                report.faults.append(
                    Fault(leaf.name, "unexpected", "a layer of the target that it fits", shown)
                )


def _fill(layers: list[Layer], wanted: Container, filled: dict[str, np.ndarray], report: Report) -> None:
    """Fill the target's layers without a source from tensors that they share, or report them.

    A layer of a stack that has others is reported with the stack.
    """
    shared = _shared(wanted, filled)
    for each in layers:
        for leaf in each.leaves:
            if leaf.name in shared:
                filled[leaf.name] = filled[shared[leaf.name]]
                report.synthesised.append(Note(leaf.name, f"shares its tensor with {shared[leaf.name]}"))
            elif leaf.number is None and leaf.name not in filled:
                expected = f"{spec(leaf.name, wanted.leaves[leaf.name])} {each.kind}"
                report.faults.append(Fault(leaf.name, "missing", expected, ""))


def _shared(container: Container, used: Collection[str]) -> dict[str, str]:
    """The names that share a tensor with a used one, which is the value."""
    groups = tied_names(container.leaves)
    return {name: other for names in groups for other in names if other in used for name in names}


def _check_names(names: Mapping[str, str], layers: list[Layer]) -> None:
    paths = [f".{each.name}." for each in layers]
    for name in names:
        if not any(f".{name}." in path for path in paths):
            raise InputError(f"names has {name!r}, but the source has no module of this name")


def _framework(holder: Any) -> str | None:
    """The framework of a module; None for any other object."""
    torch, nnx = framework("torch"), framework("flax.nnx")
    if torch is not None and isinstance(holder, torch.nn.Module):
        return "torch"
    if nnx is not None and isinstance(holder, nnx.Module):
        return "nnx"
    return "equinox" if _is_equinox(holder) else None


def _is_equinox(holder: Any) -> bool:
    equinox = framework("equinox")
    return equinox is not None and isinstance(holder, equinox.Module)


def _has_mirrors(module: Any) -> bool:
    return any(type(each).__module__.startswith(MIRRORS) for each in _modules(module))


def _modules(module: Any) -> Iterator[Any]:
    torch, nnx = framework("torch"), framework("flax.nnx")
    if torch is not None and isinstance(module, torch.nn.Module):
        yield from module.modules()
    elif nnx is not None and isinstance(module, nnx.Module):
        yield from (node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.Module))
    else:
        yield module


def _title(module: Any) -> str:
    return "the tree" if isinstance(module, Mapping) else type(module).__name__
