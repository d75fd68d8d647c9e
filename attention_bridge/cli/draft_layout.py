"""The command `draft-layout`: a layout between two checkpoints that no table knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attention_bridge.cli.paths import path as a_path
from attention_bridge.errors import InputError


def draft_layout(
    a: Annotated[Path, typer.Argument(parser=a_path, help="A checkpoint, whose names the layout has.")],
    b: Annotated[
        Path, typer.Argument(parser=a_path, help="A checkpoint of the same model under the canonical names.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=a_path, metavar="PATH", help="A file to write, .py or .toml.", show_default="the terminal"
        ),
    ] = None,
    as_toml: Annotated[bool, typer.Option("--toml", help="Write TOML, which runs no code.")] = False,
    name: Annotated[str, typer.Option(help="Name of the layout.")] = "mine",
    rename: Annotated[
        list[str] | None,
        typer.Option(help="Module of A and its name in B, such as stack=blocks; repeatable."),
    ] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Size of an axis, such as h=12; repeatable.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an output that exists.")] = False,
) -> None:
    """Propose the layout between two checkpoints from names, shapes and order; rules that are guesses are marked.

    With both models in Python, attention_bridge.draft_layout(a, b, inputs=...) also settles the guesses.

    Example: attention-bridge draft-layout mine.pt model.safetensors --output mine.toml
    """
    from attention_bridge.pretrained.conversion import read_axes
    from attention_bridge.weights.draft.drafting import draft_layout as draft

    if output is not None and output.suffix not in (".py", ".toml"):
        raise InputError(f"--output must end in .py or .toml, got {output}")
    if output is not None and output.exists() and not force:
        raise InputError(f"{output} exists and was left as it is; --force overwrites it")
    names = {}
    for text in rename or []:
        old, equals, new = text.partition("=")
        if not (equals and old and new):
            raise InputError(f"--rename must be two names, such as stack=blocks, got {text!r:.100}")
        names[old] = new
    found = draft(_tensors(a), _tensors(b), names=names, axes=read_axes(axis or []), name=name)
    is_toml = as_toml if output is None else output.suffix == ".toml"
    text = found.toml if is_toml else found.source
    if output is None:
        typer.echo(text, nl=False)
        return
    output.write_text(text, "utf-8")
    rules = "rule" if len(found.layout.rules) == 1 else "rules"
    guesses = "guess" if len(found.open_guesses) == 1 else "guesses"
    typer.echo(f"wrote {output}: {len(found.layout.rules)} {rules}, {len(found.open_guesses)} {guesses}")


def _tensors(path: Path) -> dict[str, Any]:
    """Arrays with the shapes and dtypes of a checkpoint's tensors; matrices that may be copies have their values."""
    from attention_bridge import checkpoints
    from attention_bridge.weights.placeholders import ghost

    with checkpoints.open(checkpoints.find(path)) as reader:
        counts: dict[Any, int] = {}
        for spec in reader.specs.values():
            counts[spec.shape] = counts.get(spec.shape, 0) + 1
        return {
            name: reader.read(name)
            if len(spec.shape) == 2 and counts[spec.shape] == 2
            else ghost(spec.shape, spec.dtype)
            for name, spec in reader.specs.items()
        }
