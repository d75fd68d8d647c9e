"""Paths as they are given to the command."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def path(text: str | os.PathLike[str]) -> Path:
    """The path that a text is; `Path("")` would be the current directory.

    Raises:
        typer.BadParameter: the text is empty, as where a variable of a shell is not set.
    """
    if not os.fspath(text):
        raise typer.BadParameter("a path must not be empty; the current directory is .")
    return Path(text)
