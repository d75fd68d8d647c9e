"""The command `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attention_bridge.cli.choices import existing
from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.progress import step, warn_of_miscompilation


def demo(
    text: Annotated[list[str] | None, typer.Option(help="A sentence; repeatable.")] = None,
    file: Annotated[
        Path | None, typer.Option(parser=a_path, help="UTF-8 text with one sentence per line.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Sentence to find the nearest neighbours of.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            parser=existing("--checkpoint"),
            metavar="PATH",
            help="Directory of a BERT-style encoder.",
            show_default="all-MiniLM-L6-v2",
        ),
    ] = None,
    figure: Annotated[
        Path, typer.Option(parser=a_path, help="File to write the picture to: .png, .pdf or .svg.")
    ] = Path("attention-demo.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a pretrained sentence encoder in both frameworks; compare weights, attention and embeddings.

    Example: attention-bridge demo --text "Attention is all you need." --figure demo.png
    """
    from attention_bridge.demo import report, run

    result = run(text or (), file=file, query=query, checkpoint=checkpoint, figure=figure, step=step)
    warn_of_miscompilation(result.platform)
    if as_json:
        typer.echo(report.as_json(result))
    else:
        report.show(result, Console(highlight=False))
    if not result.ok:
        if as_json:
            Console(stderr=True).print(report.verdict(result), soft_wrap=True)
        raise typer.Exit(1)
