"""Parser for the path arguments of the commands."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def path(text: str | os.PathLike[str]) -> Path:
    """Parse a path; an empty text is an error, since `Path("")` would be the current directory.

    Raises:
        typer.BadParameter: the text is empty, for example from an unset shell variable.
    """
    if not os.fspath(text):
        raise typer.BadParameter("a path must not be empty; the current directory is .")
    return Path(text)
