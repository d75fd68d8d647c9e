"""Pictures on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from attention_bridge.checkpoints.atomic import replacing
from attention_bridge.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format that the name ends in; an older file stays until the new one is complete.

    Args:
        figure: from any function here.
        path: ends in `.png`, `.svg` or `.pdf`.

    Raises:
        InputError: it has another ending.
        CheckpointError: its directory does not exist.
        DiskError: the system cannot write.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"a picture must end in {', '.join(ENDINGS)}, got {path}")
    with replacing(path) as temporary:
        form = path.suffix.lower().removeprefix(".")
        figure.savefig(temporary, format=form, dpi=160, facecolor="white")
