"""Streaming conversion: planned from shapes alone, then run on a few tensors at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention_bridge.errors import Fault
from attention_bridge.weights.configured import Configured
from attention_bridge.weights.engine import Traced, resolve, route
from attention_bridge.weights.layout import Layout, entry_for
from attention_bridge.weights.leaves import Spec
from attention_bridge.weights.names import pattern
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.report import Match, Report
from attention_bridge.weights.unknown import unknown

UNKNOWN = "a name and as many axes as a module of the mirrors has; --allow-unknown takes it as it is"

Read = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Stream:
    """A planned conversion.

    Attributes:
        specs: shape and dtype of each target tensor, by name.
        report: the planned conversion of each tensor.
        pieces: groups of source names that are converted together.
        unknown: source names that are converted although no module of the mirrors has them.
    """

    specs: dict[str, Spec]
    report: Report
    pieces: tuple[tuple[str, ...], ...]
    unknown: tuple[str, ...]
    _read: Read
    _source: Layout
    _target: Layout
    _axes: Mapping[str, int]

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and array of each target tensor, converted lazily."""
        for names in self.pieces:
            report = Report(self._source.name, self._target.name)
            given = {name: self._read(name) for name in names}
            converted = route(given, self._source, self._target, self._axes, report)
            report.raise_faults()
            yield from ((name, item.array) for name, item in converted.items())


def stream(
    specs: Mapping[str, Spec],
    read: Read,
    source: Layout | str,
    target: Layout | str,
    *,
    axes: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | Configured | None = None,
    allow_unknown: bool = True,
) -> Stream:
    """Plan a conversion of tensors that are read one at a time.

    Args:
        specs: shape and dtype of each source tensor, by name.
        read: function that returns the values of the tensor of a name.
        source: layout of the source tensors, or its name in `attention_bridge.weights.layouts.LAYOUTS`.
        target: layout to convert to, or its name.
        axes: sizes of axes that the shapes do not give, such as ``{"h": num_heads}``; None for none.
        config: the model's configuration, the content of `config.json`; None for none.
        allow_unknown: whether tensors that no module of the mirrors has are converted. It matters only if `source`
            is one of the mirrors' layouts, which accept any name.

    Raises:
        ConversionError: as for `convert`, before any tensor is converted.
        CheckpointError: the configuration is not supported.
        ValueError: there is no layout of that name.
    """
    source, target, sizes = resolve(source, target, axes, config, specs.keys())
    report = Report(source.name, target.name)
    given = {
        name: read(name) if _is_looked_at(name, source, target) else ghost(spec.shape, spec.dtype)
        for name, spec in specs.items()
    }
    converted = route(given, source, target, sizes, report)
    strange = unknown(given, source, sizes, target)
    if not allow_unknown:
        report.faults += [Fault(name, "unexpected", UNKNOWN, str(specs[name])) for name in strange]
    report.raise_faults()
    report.matched += [Match(name, item.origins, item.patterns) for name, item in converted.items()]
    made = {name: Spec(item.array.shape, item.array.dtype) for name, item in converted.items()}
    return Stream(made, report, _pieces(converted), tuple(strange), read, source, target, sizes)


def _is_looked_at(name: str, source: Layout, target: Layout) -> bool:
    """Whether planning needs the values of a tensor, not its shape alone."""
    canonical = source.canonical(name)
    if entry_for(canonical, source.constants) or entry_for(canonical, source.tied):
        return True
    if any(pattern(tied.to).match(canonical) is not None for tied in source.tied):
        return True
    return bool(target.zero_biases) and name.endswith("bias")


def _pieces(converted: Mapping[str, Traced]) -> tuple[tuple[str, ...], ...]:
    """Groups of source names: those that a common target tensor depends on are in one group."""
    group: dict[str, list[str]] = {}
    for item in converted.values():
        joined = list(dict.fromkeys(name for need in item.needs for name in group.get(need, [need])))
        group.update(dict.fromkeys(joined, joined))
    return tuple(tuple(names) for names in {id(names): names for names in group.values()}.values())
