"""Reports of a demonstration: tables for the terminal and JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from attention_bridge.demo import Demonstration
from attention_bridge.demo.comparison import Row

NEIGHBOURS = 5  # number of neighbours shown


def as_json(result: Demonstration) -> str:
    """The results as one JSON object, with the largest difference of each kind; null if it is not finite.

    The number of sentences includes the query.
    """
    *layers, embeddings = result.rows
    return json.dumps(
        {
            "sentences": len(result.texts),
            "parameters": result.parameters,
            "max_abs_diff_torch_jax": _largest(embeddings.torch_jax),
            "max_abs_diff_reference": _largest(embeddings.torch_reference, embeddings.jax_reference),
            "max_weight_diff": _largest(*(difference for row in layers for difference in row.differences)),
            "neighbours_equal": result.neighbours_equal,
            "figure": str(result.figure),
            "ok": result.ok,
        }
    )


def show(result: Demonstration, console: Console) -> None:
    """Print the tables, the picture's path and the verdict."""
    parts: list[RenderableType] = [_headline(result), differences(result.rows)]
    if result.torch_neighbours:
        parts.append(_neighbours(result))
    parts.append(_picture(result))
    for part in (*parts, verdict(result)):
        console.print()
        console.print(part, soft_wrap=isinstance(part, Text))


def verdict(result: Demonstration) -> Text:
    """The last line of the report: EQUAL or NOT EQUAL, and the reason."""
    if result.divergence is not None:
        return Text.assemble(("NOT EQUAL: ", "bold red"), f"{result.divergence}.")
    if not result.neighbours_equal:
        return Text.assemble(("NOT EQUAL: ", "bold red"), "PyTorch and JAX disagree about the neighbours.")
    return Text.assemble(
        ("EQUAL: ", "bold green"),
        "PyTorch, JAX and the reference agree in every attention weight and every embedding.",
    )


def _largest(*differences: float) -> float | None:
    return max(differences) if all(map(math.isfinite, differences)) else None


def _headline(result: Demonstration) -> Text:
    count = len(result.texts)
    lines = Text.assemble(
        (result.model, "bold"),
        f": {result.parameters:,} parameters, {count} sentence{'s' if count > 1 else ''}, float32, "
        f"PyTorch on cpu, JAX on {result.platform}.",
    )
    if result.cut:
        lines.append(f"\n{result.cut} longer than the model's maximum length: truncated.")
    return lines


def differences(rows: Sequence[Row]) -> Table:
    """Table of the differences, green where rounding explains them."""
    table = Table(
        title="Largest absolute differences",
        title_style="bold",
        title_justify="left",
        caption="Weights of all heads, for real tokens only; embeddings of length 1.\n"
        "Bound on the weights: 4 · 2⁻²⁴ √ffn_dim per layer so far, as rounding errors accumulate.",
        caption_justify="left",
    )
    table.add_column("")
    for column in ("PyTorch\n− JAX", "PyTorch\n− reference", "JAX\n− reference", "\nbound"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            Text(
                f"{difference:.1e}" if difference else "0",
                "green" if difference <= row.tolerance else "bold red",
            )
            for difference in row.differences
        ]
        last_layer = row is rows[-2]
        table.add_row(row.name, *cells, Text(f"{row.tolerance:.1e}", "dim"), end_section=last_layer)
    return table


def _neighbours(result: Demonstration) -> Table:
    table = Table(
        title=Text.assemble(
            ("Nearest neighbours of ", "bold"), (f"“{result.texts[result.query]}”", "bold italic")
        ),
        title_justify="left",
    )
    for column in ("PyTorch", "JAX"):
        table.add_column(column, justify="right")
    table.add_column("sentence")
    pairs = zip(result.torch_neighbours, result.jax_neighbours, strict=True)
    for torch_one, jax_one in list(pairs)[:NEIGHBOURS]:
        names = dict.fromkeys((result.texts[torch_one.sentence], result.texts[jax_one.sentence]))
        table.add_row(f"{torch_one.score:.6f}", f"{jax_one.score:.6f}", Text("\n".join(names)))
    return table


def _picture(result: Demonstration) -> Text:
    place = result.place
    return Text.assemble(
        ("Picture ", "bold"),
        f"(layer {place.layer}, head {place.head}, “{result.texts[place.sentence]}”):\n",
        (str(result.figure), "cyan"),
    )
