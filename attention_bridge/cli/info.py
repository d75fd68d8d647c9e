"""The command `info`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print versions, devices and matmul precision, and test for known miscompilations in child processes."""
    from attention_bridge.cli.environment import collect, lines

    found = collect()
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))
