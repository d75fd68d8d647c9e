"""The commands `list` and `show`: the catalogue and its mechanisms."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from attention_bridge.cli.choices import mechanisms
from attention_bridge.errors import InputError


def list_mechanisms(
    family: Annotated[str | None, typer.Option(help="Family of mechanisms, such as linear.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown page.")] = False,
) -> None:
    """List the mechanisms of the catalogue with their families and papers.

    Example: attention-bridge list --family linear
    """
    from attention_bridge.catalogue import CATALOGUE
    from attention_bridge.pages import tables

    families = dict.fromkeys(each.family for each in CATALOGUE)
    family = None if family is None else family.lower()
    if as_json and as_markdown:
        raise InputError("expected --json or --markdown, not both")
    if family is not None and family not in families:
        raise InputError(f"--family must be one of {', '.join(families)}, got {family!r}")
    chosen = [each for each in CATALOGUE if family in (None, each.family)]
    if as_json:
        typer.echo(json.dumps(tables.mechanism_rows(chosen), indent=2))
    elif as_markdown:
        typer.echo(tables.mechanism_markdown(chosen))
    else:
        Console(highlight=False).print(tables.mechanism_table(chosen))


def show(
    name: Annotated[
        str, typer.Argument(autocompletion=mechanisms, help="Name of a mechanism, as `list` prints it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show one mechanism: equation, paper, files, constructor and call in both frameworks, peers.

    Example: attention-bridge show GroupedQueryAttention
    """
    from attention_bridge.catalogue import select
    from attention_bridge.pages import tables

    [mechanism] = select([name])
    if as_json:
        typer.echo(json.dumps(tables.mechanism_rows([mechanism])[0], indent=2))
    else:
        typer.echo("\n".join(tables.mechanism_lines(mechanism)))
