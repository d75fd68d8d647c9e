"""Detection of the layout from the names and shapes of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from attention_bridge.weights.engine import enter, move, route
from attention_bridge.weights.layout import TRAINERS, Layout, entry_for
from attention_bridge.weights.leaves import Spec
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.report import Report
from attention_bridge.weights.unknown import takes_anything, unknown


class Candidate(NamedTuple):
    """A layout that fits the given tensors.

    Attributes:
        layout: name of the layout.
        evidence: the reason, in words.
    """

    layout: str
    evidence: str


def detect(specs: Mapping[str, Spec]) -> list[Candidate]:
    """The layouts that cover every tensor, the most specific first.

    The mirrors' layouts accept any name, so they are listed only if modules of the mirrors have all the tensors.

    Args:
        specs: shape and dtype of each tensor, by name.
    """
    from attention_bridge.weights.layouts import LAYOUTS  # here, because the tables import the rules

    if not specs:
        return []
    example = max(specs, key=len)
    particular, mirrors = [], []
    for layout in LAYOUTS.values():
        if layout.name == "plain":  # it covers anything, which is no evidence
            continue
        if takes_anything(layout):
            if (spelled := _spelled(specs, layout)) is not None:
                evidence = f"modules of the mirrors have all {len(specs)} names and shapes, such as {example}"
                mirrors.append((spelled, Candidate(layout.name, evidence)))
        elif _has_all(specs, layout):
            evidence = f"it covers all {len(specs)} names and shapes, such as {example}"
            particular.append((len(layout.rules), Candidate(layout.name, evidence)))
    return [
        candidate for found in (particular, mirrors) for _, candidate in sorted(found, key=lambda x: -x[0])
    ]


def _has_all(specs: Mapping[str, Spec], layout: Layout) -> bool:
    return (
        all(_has_place(name, layout) for name in specs)
        and any(_is_moved(name, layout) for name in specs)
        and not _misfits(specs, layout)
    )


def _spelled(specs: Mapping[str, Spec], layout: Layout) -> int | None:
    """Number of names in a spelling that only this mirror layout has; None if no modules have these tensors."""
    report = Report(layout.name, "")
    tensors = {name: ghost(spec.shape, spec.dtype) for name, spec in specs.items()}
    entered = enter(tensors, layout, report)
    move(entered, layout.to_hub, {}, report)
    if not entered or report.faults or unknown(tensors, layout, {}):
        return None
    spelled = {layout.canonical(name) for name in specs}
    if layout.stacked is not None and entered.keys() <= spelled:
        return None  # no tensor stacks layers: the layout without stacked layers describes it
    return sum(layout.canonical(name) != name for name in specs)


def _has_place(name: str, layout: Layout) -> bool:
    canonical = layout.canonical(name)
    if _is_moved(name, layout) or layout.carries(canonical):
        return True
    return any(
        entry is not None
        for entry in (
            entry_for(canonical, layout.constants),
            entry_for(canonical, layout.tied),
            entry_for(canonical, layout.dropped),
            entry_for(canonical, layout.unused),
            entry_for(canonical, TRAINERS),
        )
    )


def _is_moved(name: str, layout: Layout) -> bool:
    """Whether a rule of the layout matches the name."""
    return layout.moves(layout.canonical(name))


def _misfits(specs: Mapping[str, Spec], layout: Layout) -> list[str]:
    """The tensors whose shapes fit no rule, for any number of heads."""
    report = Report(layout.name, "")
    hub = Layout("", rules=())
    given = {
        name: ghost(spec.shape, spec.dtype)
        for name, spec in specs.items()
        if not entry_for(layout.canonical(name), layout.constants)
        and not entry_for(layout.canonical(name), layout.tied)
    }
    route(given, layout, hub, {}, report)
    return [fault.name for fault in report.faults if fault.fault == "wrong shape"]
