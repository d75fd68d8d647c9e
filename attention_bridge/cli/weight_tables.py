"""Layouts, checkpoints and conversions as tables and JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from attention_bridge.errors import printable
from attention_bridge.pretrained.conversion import Conversion
from attention_bridge.pretrained.families.readers.own import as_json
from attention_bridge.pretrained.inspection import Inspection
from attention_bridge.pretrained.layer_table import layer_table
from attention_bridge.pretrained.verification import Verified
from attention_bridge.weights.layouts import LAYOUTS

SHOWN = 40  # tensors, and runs of equal layers, printed in the terminal; JSON has all


def layout_rows() -> list[dict[str, Any]]:
    """One object per layout: its name, its rules and the axes it needs sizes for."""
    return [
        {
            "name": layout.name,
            "rules": [
                {
                    "theirs": rule.theirs,
                    "hub": rule.hub,
                    "axes": getattr(rule, "pattern", rule.to_hub[0].pattern),
                }
                for rule in layout.rules
            ],
            "axes": sorted(layout.needed_axes()),
        }
        for layout in LAYOUTS.values()
    ]


def layout_table() -> Table:
    """The layouts as a table for the terminal."""
    table = Table("layout", "rules", "axes to give", box=None, pad_edge=False)
    for row in layout_rows():
        table.add_row(row["name"], str(len(row["rules"])), ", ".join(row["axes"]) or "-")
    return table


def inspection_json(found: Inspection) -> dict[str, Any]:
    """The contents of a checkpoint as one JSON object."""
    return {
        "path": str(found.path),
        "format": found.format,
        "format_evidence": found.format_evidence,
        "layouts": [candidate._asdict() for candidate in found.layouts],
        "model": found.model,
        "config": found.config_note,
        "description": as_json(found.description),
        "parameters": found.parameters,
        "dtypes": found.dtypes,
        "tensors": {
            name: {"shape": list(spec.shape), "dtype": spec.dtype.name} for name, spec in found.specs.items()
        },
    }


def inspection_lines(found: Inspection) -> list[str]:
    """Format, size, layout and model of a checkpoint, printed before its tensors."""
    dtypes = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    layouts = [f"layout: {candidate.layout} ({candidate.evidence})" for candidate in found.layouts]
    return [
        f"{found.path}: {found.format} ({found.format_evidence})",
        f"{found.parameters:,} parameters in {len(found.specs)} tensors ({dtypes})",
        *(layouts or _next_steps(found)),
        f"model: {found.model or 'unknown'}; {found.config_note}",
    ]


def _next_steps(found: Inspection) -> list[str]:
    """The next step for a checkpoint that has no known layout."""
    return [
        "layout: unknown; `attention-bridge layouts` lists the known ones",
        f"next: `attention-bridge draft-layout {found.path} OTHER --output mine.toml` proposes a layout, where OTHER "
        "is a checkpoint of the same model under the names to convert to; `convert --from mine.toml` then applies it",
    ]


def description_lines(found: Inspection) -> list[str]:
    """The model's layers as a table, or its sizes; empty if its configuration is not understood."""
    return [] if found.description is None else layer_table(found.description, SHOWN).split("\n")


def tensor_table(found: Inspection) -> Table:
    """The tensors as a table for the terminal; only the first if there are many."""
    table = Table("tensor", "shape", "dtype", box=None, pad_edge=False)
    for name, spec in list(found.specs.items())[:SHOWN]:
        table.add_row(Text(printable(name)), str(spec.shape), spec.dtype.name)
    if len(found.specs) > SHOWN:
        table.add_row(f"... and {len(found.specs) - SHOWN} more", "", "")
    return table


def conversion_json(done: Conversion, dry_run: bool, verified: Verified | None) -> dict[str, Any]:
    """The conversion as one JSON object."""
    report = done.report
    return {
        "source": str(done.source),
        "target": str(done.target),
        "format": done.format,
        "from": report.source,
        "to": report.target,
        "written": not dry_run,
        "matched": [match._asdict() for match in report.matched],
        "synthesised": [note._asdict() for note in report.synthesised],
        "ignored": [note._asdict() for note in report.ignored],
        "unknown": list(done.unknown),
        "not_finite": list(done.not_finite),
        "carried": list(done.carried),
        "places": list(done.places),
        "described": done.described,
        "causal": list(done.causal),
        "verified": None if verified is None else {**verified._asdict(), "ok": verified.ok},
    }


def conversion_lines(done: Conversion, dry_run: bool, verified: Verified | None) -> list[str]:
    """The conversion in a few lines."""
    report = done.report
    verb = "would convert" if dry_run else "converted"
    lines = [
        f"{verb} {done.source} ({report.source}) to {done.target} ({report.target}, {done.format}): "
        f"{len(report.matched)} tensors; {len(report.synthesised)} synthesised, {len(report.ignored)} dropped"
    ]
    if done.beside:
        lines.append(f"beside it: {', '.join(done.beside)}")
    lines += [f"synthesised: {note.name}, {note.reason}" for note in report.synthesised[:SHOWN]]
    if done.carried:
        lines.append(
            f"copied unchanged, under their paths: {len(done.carried)} variables of layers other than attention, "
            f"such as {done.carried[0]}"
        )
    if not done.described:
        lines.append(
            "sliding_window and attention_axes are in no file of weights, so they were not checked; a .keras file has "
            "them, for layers outside custom classes"
        )
    if done.causal:
        lines.append(
            f"the model calls {', '.join(done.causal[:SHOWN])} with use_causal_mask=True, which no tensor shows: use "
            "a causal layer"
        )
    if done.format == "keras" and not done.places:
        lines.append(
            f"Keras does not find weights by the names of {report.target}; --to keras.mha or keras.gqa writes its own"
        )
    if done.places:
        lines.append(
            f"written for Keras with attention at {', '.join(done.places[:SHOWN])}: Keras finds weights by these paths "
            "alone; --place sets others"
        )
    lines += [
        f"dropped: {note.name}, {note.reason.removeprefix('dropped: ')}" for note in report.ignored[:SHOWN]
    ]
    if verified is not None:
        equal = "equal" if verified.ok else "NOT EQUAL"
        lines.append(
            f"verified: {verified.model} in PyTorch from the source and in JAX from the target: {equal}, "
            f"largest difference {verified.error:.1e} relative to the largest of {verified.outputs} outputs, "
            f"rounding explains {verified.tolerance:.1e}"
        )
        if verified.differing:
            lines.append(f"tensors whose bits differ: {', '.join(verified.differing[:SHOWN])}")
    return lines
