"""The conversion engine: named numpy arrays from one layout to another, through the canonical layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.errors import Fault, FaultKind, InputError, unknown
from attention_bridge.weights.configured import Configured, read_config
from attention_bridge.weights.layout import AVERAGED, TRAINERS, AnyMove, Layout, ZeroBias, entry_for
from attention_bridge.weights.names import pattern
from attention_bridge.weights.placeholders import stacked
from attention_bridge.weights.reordered import ReorderedMove
from attention_bridge.weights.report import Match, Note, Report
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.scaled import ScaledMove
from attention_bridge.weights.stacked import stack, unstack


class Traced(NamedTuple):
    """An array during a conversion, with its origin.

    Attributes:
        array: the current values.
        origins: names of the source tensors that it is made of.
        patterns: einops patterns applied so far.
        needs: names of all source tensors that it depends on; for a synthesised bias, also its weight.
    """

    array: np.ndarray
    origins: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def convert(
    tensors: Mapping[str, np.ndarray],
    source: Layout | str,
    target: Layout | str,
    axes: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | Configured | None = None,
) -> tuple[dict[str, np.ndarray], Report]:
    """Convert named arrays from one layout to another. Bytes are only moved, except by a layout's `ScaledRule`s.

    Args:
        tensors: arrays by name, of any dtype of numpy or ml_dtypes. The results may share memory with them.
        source: layout of `tensors`, or its name in `attention_bridge.weights.layouts.LAYOUTS`.
        target: layout to convert to, or its name.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; the prefix of a module path,
            ``{"layers.0.h": num_heads}``, limits a size to that module. None for none.
        config: the model's configuration, the content of `config.json`; it gives the sizes of axes and whether the
            embeddings are tied. None for none.

    Returns:
        The arrays under the target layout's names, and a report of each tensor's conversion.

    Raises:
        ConversionError: tensors are unexpected, missing, of a wrong shape or in conflict; lists all faults.
        CheckpointError: the configuration is not supported.
        ValueError: there is no layout of that name.
    """
    source, target, axes = resolve(source, target, axes, config, tensors)
    report = Report(source.name, target.name)
    converted = route(tensors, source, target, axes, report)
    report.raise_faults()
    report.matched += [Match(name, item.origins, item.patterns) for name, item in converted.items()]
    return {name: item.array for name, item in converted.items()}, report


def resolve(
    source: Layout | str,
    target: Layout | str,
    axes: Mapping[str, int] | None,
    config: Mapping[str, Any] | Configured | None,
    names: Collection[str],
) -> tuple[Layout, Layout, dict[str, int]]:
    """The source layout, the target layout and the axis sizes, adjusted to a configuration.

    Args:
        source: layout to convert from, or its name.
        target: layout to convert to, or its name.
        axes: sizes of axes that the shapes do not give; they override the configuration.
        config: the model's configuration; None for none.
        names: names of the source tensors.
    """
    source, target = find_layout(source), find_layout(target)
    own = {**dict(target.axes), **dict(source.axes)}
    if config is None:
        return source, target, {**own, **(axes or {})}
    reading = read_config(config, names) if isinstance(config, Mapping) else config
    source, target = (reading.layout if x.name == reading.layout.name else x for x in (source, target))
    return source, target, {**own, **reading.axes, **(axes or {})}


def find_layout(layout: Layout | str) -> Layout:
    """Return a layout itself, or look it up by name.

    Raises:
        InputError: there is no layout of that name.
    """
    if isinstance(layout, Layout):
        return layout
    from attention_bridge.weights.layouts import LAYOUTS  # here, because the tables import the rules

    if layout not in LAYOUTS:
        raise InputError(unknown("layout", layout, LAYOUTS, "layouts"))
    return LAYOUTS[layout]


def route(
    tensors: Mapping[str, np.ndarray],
    source: Layout,
    target: Layout,
    axes: Mapping[str, int],
    report: Report,
) -> dict[str, Traced]:
    """Convert every tensor from `source` to the canonical layout and then to `target`; add faults to `report`."""
    arrays = enter(tensors, source, report)

    def kept(name: str) -> bool:
        return source.carries(name) or target.carries(name)

    hub = move(arrays, source.to_hub, axes, report, kept)
    for rule in source.zero_biases:
        _add_zero_bias(hub, rule, report)
    for rule in target.zero_biases:
        _remove_zero_bias(hub, rule, report)
    left = _leave(move(hub, target.from_hub, axes, report, kept), target, report)
    if target.misfits is not None:
        for name, expected in target.misfits({name: item.array.shape for name, item in left.items()}):
            given = f"{describe(left[name].array)} for {name}"
            report.faults.append(Fault(", ".join(left[name].origins), "wrong shape", expected, given))
    return left


def describe(*arrays: np.ndarray) -> str:
    """Format shapes and dtypes for reports."""
    return ", ".join(f"{array.shape} {array.dtype}" for array in arrays)


def enter(tensors: Mapping[str, np.ndarray], layout: Layout, report: Report) -> dict[str, Traced]:
    """The tensors to convert, in the rules' spelling; the others are checked and noted in `report`."""
    arrays: dict[str, Traced] = {}
    canonical = {layout.canonical(given): array for given, array in tensors.items()}
    weights = {layout.canonical(given) for given in tensors if not AVERAGED.match(given)}
    for given, array in tensors.items():
        name = layout.canonical(given)
        if refused := entry_for(name, layout.refused):
            report.faults.append(Fault(given, "refused", refused.reason, describe(array)))
        elif dropped := entry_for(name, layout.dropped):
            report.ignored.append(Note(given, f"dropped: {dropped.reason}"))
        elif constant := entry_for(name, layout.constants):
            if np.array_equal(array, constant.value(array.shape)):
                report.ignored.append(Note(given, constant.reason))
            else:
                report.faults.append(Fault(given, "wrong value", constant.reason, "other values"))
        elif tied := entry_for(name, layout.tied):
            if tied.to not in canonical:
                report.faults.append(Fault(tied.to, "missing", f"beside {given}", ""))
            elif np.array_equal(array, canonical[tied.to]):
                report.ignored.append(Note(given, tied.reason))
            else:
                report.faults.append(Fault(given, "wrong value", tied.reason, "other values"))
        elif AVERAGED.match(given) and name != given and name in weights:
            report.ignored.append(Note(given, "dropped: an average of the weights, beside them"))
        elif not layout.moves(name) and (unused := entry_for(name, (*layout.unused, *TRAINERS))):
            report.ignored.append(Note(given, f"dropped: {unused.reason}"))
        else:
            try:
                parts = _layers(name, array, layout)
            except ValueError as error:
                report.faults.append(Fault(given, "wrong shape", str(error), describe(array)))
                continue
            for part, single in parts.items():
                if part in arrays:
                    report.faults.append(_clash(part, arrays[part].origins, (given,)))
                else:
                    arrays[part] = Traced(single, (given,), needs=(given,))
    return arrays


def _layers(name: str, array: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """The tensors of single layers or experts, if the layout stacks all of them in one tensor."""
    apart = (
        unstack(name, array, layout.stacked, layout.stacked_axis) if layout.stacked and array.ndim else None
    )
    parts = {name: array} if apart is None else apart
    return parts if layout.renamed is None else {layout.renamed.enter(part): x for part, x in parts.items()}


def _leave(arrays: dict[str, Traced], layout: Layout, report: Report) -> dict[str, Traced]:
    """Stack the tensors of single layers or experts, if the layout stacks all of them in one tensor."""
    if layout.renamed is not None:
        arrays = {layout.renamed.leave(name): item for name, item in arrays.items()}
    if layout.stacked is None:
        return arrays

    def join(name: str, items: list[Traced]) -> Traced:
        kinds = {(item.array.shape, item.array.dtype) for item in items}
        if len(kinds) > 1 or items[0].array.ndim < layout.stacked_axis:
            given = describe(*(item.array for item in items))
            report.faults.append(
                Fault(name, "wrong shape", f"{layout.stacked} of one shape and dtype", given)
            )
            return items[0]
        pattern = (
            f"... -> {layout.stacked} ..." if not layout.stacked_axis else f"i ... -> i {layout.stacked} ..."
        )
        patterns = (*_union(item.patterns for item in items), pattern)
        origins, needs = (
            _union(item.origins for item in items),
            _union(item.needs for item in items),
        )
        whole = np.moveaxis(stacked([item.array for item in items]), 0, layout.stacked_axis)
        return Traced(whole, origins, patterns, needs)

    joined, gaps = stack(arrays, layout.stacked, join)
    for name, numbers in gaps:
        report.faults.append(
            Fault(name, "missing", f"a tensor of all {layout.stacked}", f"of {layout.stacked} {numbers}")
        )
    return joined


def move(
    arrays: Mapping[str, Traced],
    moves: Sequence[AnyMove],
    axes: Mapping[str, int],
    report: Report,
    kept: Callable[[str], bool] = lambda name: False,
) -> dict[str, Traced]:
    """Apply to each array the first move that fits; keep an array that no move matches if `kept(name)` is true."""
    moved: dict[str, Traced] = {}
    used: set[str] = set()
    for name in arrays:
        if name in used:
            continue
        if kept(name) and not any(each.match(name) for each in moves):
            names, results = [name], {name: arrays[name]}
        else:
            names, results = _first_fit(name, arrays, moves, axes, report)
        used.update(names)
        for target, result in results.items():
            if target in moved:
                report.faults.append(_clash(target, moved[target].origins, result.origins))
            else:
                moved[target] = result
    return moved


def _first_fit(
    name: str,
    arrays: Mapping[str, Traced],
    moves: Sequence[AnyMove],
    axes: Mapping[str, int],
    report: Report,
) -> tuple[list[str], dict[str, Traced]]:
    """The names that one move converts together with `name`, and the results; no results after a fault."""
    misfits = []
    for each in moves:
        matched = each.match(name)
        if matched is None:
            continue
        names, targets = matched
        sizes = sizes_at(names[0], axes)
        items = [arrays[n] for n in names if n in arrays]
        origins = _union(item.origins for item in items)
        faults = [Fault(n, "missing", f"beside {', '.join(origins)}", "") for n in names if n not in arrays]
        if unknown := each.unknown_axes(sizes):
            expected = (
                f"a size for {' or '.join(unknown)} in axes (--axis {unknown[0]}=...), for {each.pattern!r}"
            )
            faults.append(Fault(", ".join(origins), "unknown axis", expected, ""))
        if faults:
            report.faults += faults
            return names, {}
        try:
            results = each.apply([item.array for item in items], sizes)
        except ValueError:
            misfits.append(each.pattern)
            continue
        patterns = _union(item.patterns for item in items)
        patterns += () if each.pattern == IDENTITY else (each.pattern,)
        patterns += (each.arithmetic,) if isinstance(each, ReorderedMove | ScaledMove) else ()
        needs = _union(item.needs for item in items)
        traced = (Traced(result, origins, patterns, needs) for result in results)
        return names, dict(zip(targets, traced, strict=True))

    item = arrays[name]
    expected = " or ".join(pattern.split(" -> ")[0] for pattern in misfits)
    kind: FaultKind = "wrong shape" if misfits else "unexpected"
    report.faults.append(Fault(", ".join(item.origins), kind, expected, describe(item.array)))
    return [name], {}


def sizes_at(name: str, axes: Mapping[str, int]) -> dict[str, int]:
    """The axis sizes for the tensor of this name; sizes with a module path override general ones.

    The size `v` of a head's values defaults to `d`, the size of its keys.
    """
    found = {key: size for key, size in axes.items() if "." not in key}
    for key in sorted(axes, key=len):
        path, dot, axis = key.rpartition(".")
        if dot and name.startswith(f"{path}."):
            found[axis] = axes[key]
    return {"v": found["d"], **found} if "d" in found else found


def _union(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The union of the groups, in order, without duplicates."""
    return tuple(dict.fromkeys(text for group in groups for text in group))


def _add_zero_bias(hub: dict[str, Traced], rule: ZeroBias, report: Report) -> None:
    """Add a zero bias to each weight whose bias the source's layout does not have."""
    for name, weight in list(hub.items()):
        values = pattern(rule.weight).match(name)
        if values is None:
            continue
        bias = pattern(rule.bias).fill(values)
        if bias in hub:
            report.faults.append(_clash(bias, hub[bias].origins, (f"zeros, {rule.reason}",)))
        else:
            zeros = np.zeros(weight.array.shape[0], weight.array.dtype)
            hub[bias] = Traced(zeros, (bias,), needs=weight.needs)
            report.synthesised.append(Note(bias, rule.reason))


def _remove_zero_bias(hub: dict[str, Traced], rule: ZeroBias, report: Report) -> None:
    """Drop each bias that the target's layout does not have; a nonzero one is a fault."""
    for name in [name for name in hub if pattern(rule.bias).match(name) is not None]:
        bias = hub.pop(name)
        if bias.array.astype(bool).any():
            given = ", ".join(bias.origins)
            report.faults.append(Fault(given, "wrong value", f"zeros, {rule.reason}", "other values"))
        else:
            report.ignored += [Note(origin, rule.reason) for origin in bias.origins]


def _clash(name: str, first: tuple[str, ...], second: tuple[str, ...]) -> Fault:
    return Fault(name, "clash", "one tensor", f"{', '.join(first)} and {', '.join(second)}")
