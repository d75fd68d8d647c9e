"""Transfer of weights between two models of either framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_bridge.errors import Fault, InputError
from attention_bridge.weights.containers import Container, open_container, tied_names
from attention_bridge.weights.engine import Traced, describe, find_layout, route
from attention_bridge.weights.layout import Layout, entry_for
from attention_bridge.weights.leaves import spec, to_numpy
from attention_bridge.weights.module_checks import refusals
from attention_bridge.weights.options import differences
from attention_bridge.weights.report import Match, Note, Report
from attention_bridge.weights.twins.modules import are_twins, may_be_twins, twins


def transfer(
    source: Any,
    target: Any,
    *,
    source_layout: Layout | str | None = None,
    target_layout: Layout | str | None = None,
    axes: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
) -> Any:
    """Fill `target` with the weights of `source`, bit for bit.

    Every tensor of the source is used once and every tensor of the target is filled, with the same shape and
    dtype; otherwise nothing is written. Options that affect the output and that no tensor shows, such as
    `num_heads`, `eps`, `activation` and `norm_first`, must agree where both modules have them. Every variable of an
    NNX module or state counts, except the state of its random generators.

    Two modules that are not of the mirrors are aligned layer by layer: a layer's type gives the order of its axes, and
    layers align by equal names, by kinds and shapes that occur once, and by the meanings or numbers in their names.
    Layers that could be aligned in several ways are a fault; `names` decides it.

    Args:
        source: torch module, mapping of names to torch tensors or numpy arrays, NNX module, NNX state, Keras layer
            or model, Equinox module, or Linen or Haiku tree of parameters with or without its collections. A flat
            mapping of JAX arrays is a Linen tree.
        target: object of any of these kinds.
        source_layout: layout of the source, or its name; None for the default layout of this kind of object.
        target_layout: layout of the target, or its name; None for the default layout of this kind of object.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; None for none.
        names: names of the source's modules or paths, and the target's names for them, such as
            ``{"stack": "blocks"}``; None for none.

    Returns:
        `target` itself, filled in place, if it is a module; else a new tree of its structure and leaf types.

    Raises:
        ConversionError: the weights do not fit; lists all faults.
        TypeError: source or target is none of the above, or a leaf is not a tensor.
        ValueError: there is no layout of that name.
    """
    container, arrays, report = _prepare(source, target, source_layout, target_layout, axes, names)
    report.raise_faults()
    return container.put(arrays)


def plan(
    source: Any,
    target: Any,
    *,
    source_layout: Layout | str | None = None,
    target_layout: Layout | str | None = None,
    axes: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
) -> Report:
    """Dry run of `transfer`: report the conversion for the same arguments, and write nothing.

    Args:
        source: object to take the weights from, as in `transfer`.
        target: object to fill, as in `transfer`.
        source_layout: layout of the source, or its name; None for the default layout of this kind of object.
        target_layout: layout of the target, or its name; None for the default layout of this kind of object.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; None for none.
        names: names of the source's modules and the target's, as in `transfer`; None for none.

    Returns:
        The report of every tensor; faults are listed in it, not raised.

    Raises:
        TypeError: source or target holds no tensors, or a leaf is not a tensor.
        ValueError: there is no layout of that name.
    """
    return _prepare(source, target, source_layout, target_layout, axes, names)[2]


def _prepare(
    source: Any,
    target: Any,
    source_layout: Layout | str | None,
    target_layout: Layout | str | None,
    axes: Mapping[str, int] | None,
    names: Mapping[str, str] | None,
) -> tuple[Container, dict[str, np.ndarray], Report]:
    given, wanted = open_container(source), open_container(target)
    by_default = source_layout is None and target_layout is None
    if names and not by_default:
        raise InputError(
            "names must be given without source_layout and target_layout, which have names of their own"
        )
    if names or (by_default and are_twins(source, target)):
        return wanted, *_aligned(source, target, given, wanted, names or {})
    filled, report = _converted(source, target, given, wanted, (source_layout, target_layout), axes)
    if report.faults and by_default and may_be_twins(source, target, given, wanted):
        aligned, other = _aligned(source, target, given, wanted, {})
        if len(other.faults) < len(report.faults):
            return wanted, aligned, other
    return wanted, filled, report


def _aligned(
    source: Any, target: Any, given: Container, wanted: Container, names: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], Report]:
    """The target's tensors and the report, from layers that are aligned."""
    filled, report = twins(source, target, given, wanted, names)
    _differences(source, target, report)
    return filled, report


def _converted(
    source: Any,
    target: Any,
    given: Container,
    wanted: Container,
    layouts: tuple[Layout | str | None, Layout | str | None],
    axes: Mapping[str, int] | None,
) -> tuple[dict[str, np.ndarray], Report]:
    """The target's tensors and the report, from layouts."""
    source_layout, target_layout = layouts
    from_layout = find_layout(source_layout or given.layout)
    to_layout = find_layout(target_layout or wanted.layout)
    report = Report(from_layout.name, to_layout.name)
    ends = from_layout.name, to_layout.name
    for holder, layout, other in ((source, *ends), (target, *ends[::-1])):
        report.faults += [Fault(name, "refused", why, "") for name, why in refusals(holder, layout, other)]
    own = {**dict(to_layout.axes), **dict(from_layout.axes)}
    sizes = {**own, **given.axes, **wanted.axes, **(axes or {})}
    tensors = {name: to_numpy(name, leaf) for name, leaf in given.leaves.items()}
    converted = route(tensors, from_layout, to_layout, sizes, report)
    filled = _fill(converted, wanted, to_layout, report)
    _fill_tied(wanted, filled, report)
    _fill_constants(wanted, filled, to_layout, report)
    _keep_dropped(wanted, filled, to_layout, report)
    _check_unused(converted, wanted, to_layout, given, report)
    _check_unfilled(wanted, filled, to_layout, report)
    _differences(source, target, report)
    return filled, report


def _differences(source: Any, target: Any, report: Report) -> None:
    """Report options of the two modules that differ, as faults."""
    report.faults += [
        Fault(name, "refused", expected, given)
        for name, expected, given in differences(source, target, report.matched)
    ]


def _fill(
    converted: Mapping[str, Traced], wanted: Container, layout: Layout, report: Report
) -> dict[str, np.ndarray]:
    """The arrays for the target's tensors, by name in the target."""
    filled: dict[str, np.ndarray] = {}
    for name, leaf in wanted.leaves.items():
        item = converted.get(layout.canonical(name))
        if item is None:
            continue
        filled[name] = item.array
        expected = spec(name, leaf)
        if item.array.shape != expected.shape:
            report.faults.append(Fault(name, "wrong shape", str(expected), describe(item.array)))
        elif item.array.dtype != expected.dtype:
            report.faults.append(Fault(name, "wrong dtype", str(expected), describe(item.array)))
        else:
            report.matched.append(Match(name, item.origins, item.patterns))
    return filled


def _fill_tied(wanted: Container, filled: dict[str, np.ndarray], report: Report) -> None:
    """Fill target names that share one tensor from any of them; different values are a fault."""
    for names in tied_names(wanted.leaves):
        given = [name for name in names if name in filled]
        if len({filled[name].tobytes() for name in given}) > 1:
            report.faults.append(Fault(", ".join(names), "clash", "one tensor, shared", "different values"))
        for name in names if given else ():
            if name not in filled:
                filled[name] = filled[given[0]]
                report.synthesised.append(Note(name, f"shares its tensor with {given[0]}"))


def _fill_constants(wanted: Container, filled: dict[str, np.ndarray], layout: Layout, report: Report) -> None:
    """Fill the target's tensors of constant value."""
    for name, leaf in wanted.leaves.items():
        constant = entry_for(layout.canonical(name), layout.constants)
        if constant is not None:
            shape, dtype = spec(name, leaf)
            filled[name] = constant.value(shape).astype(dtype)
            report.synthesised.append(Note(name, constant.reason))


def _keep_dropped(wanted: Container, filled: dict[str, np.ndarray], layout: Layout, report: Report) -> None:
    """Keep the target's tensors that its layout drops."""
    for name, leaf in wanted.leaves.items():
        dropped = entry_for(layout.canonical(name), layout.dropped)
        if dropped is not None and name not in filled:
            filled[name] = to_numpy(name, leaf)
            report.synthesised.append(Note(name, f"as it was: {dropped.reason}"))


def _check_unused(
    converted: Mapping[str, Traced], wanted: Container, layout: Layout, given: Container, report: Report
) -> None:
    """Report each tensor that the target lacks as a fault, unless it is tied to one that was used."""
    places = {layout.canonical(name) for name in wanted.leaves}
    used = {origin for name, item in converted.items() if name in places for origin in item.origins}
    shared = {
        name: partner
        for names in tied_names(given.leaves)
        for partner in names
        if partner in used
        for name in names
    }
    for name, item in converted.items():
        if name in places:
            continue
        if all(origin in shared for origin in item.origins):
            report.ignored += [Note(o, f"shares its tensor with {shared[o]}") for o in item.origins]
        else:
            expected = f"no {name} in the target"
            report.faults.append(Fault(", ".join(item.origins), "unexpected", expected, describe(item.array)))


def _check_unfilled(
    wanted: Container, filled: Mapping[str, np.ndarray], layout: Layout, report: Report
) -> None:
    """Report each target tensor that is not filled as a fault."""
    for name, leaf in wanted.leaves.items():
        if name in filled:
            continue
        expected = str(spec(name, leaf))
        if refused := entry_for(layout.canonical(name), layout.refused):
            report.faults.append(Fault(name, "refused", refused.reason, expected))
        else:
            report.faults.append(Fault(name, "missing", expected, ""))
