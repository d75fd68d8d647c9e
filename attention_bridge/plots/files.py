"""Writing figures to files."""

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
    """Write a figure in the format of the suffix; an existing file stays until the new one is complete.

    Args:
        figure: figure from any function of `attention_bridge.plots`.
        path: file to write; must end in `.png`, `.svg` or `.pdf`.

    Raises:
        InputError: the path has another suffix.
        CheckpointError: the directory of the path does not exist.
        DiskError: the system cannot write.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"a picture must end in {', '.join(ENDINGS)}, got {path}")
    with replacing(path) as temporary:
        form = path.suffix.lower().removeprefix(".")
        figure.savefig(temporary, format=form, dpi=160, facecolor="white")
