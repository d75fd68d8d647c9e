"""Diagnosis of a case in one file: the inputs, both outputs and the weights, as named arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from attention_bridge.checkpoints import read
from attention_bridge.checkpoints.faults import contents
from attention_bridge.doctor.diagnosis import Diagnosis
from attention_bridge.doctor.search import diagnose
from attention_bridge.doctor.setting import Setting
from attention_bridge.errors import InputError
from attention_bridge.weights import convert
from attention_bridge.weights.engine import find_layout

REQUIRED = ("x", "reference", "candidate")
OPTIONAL = ("memory", "mask")


def diagnose_file(
    path: Path,
    setting: Setting,
    layout: str = "torch_attention",
    progress: Callable[[str], object] | None = None,
) -> Diagnosis:
    """Run `diagnose` on a file.

    Args:
        path: `.npz` or `.safetensors` file with arrays `x`, `reference` and `candidate`, the weights, and optionally
            `memory` and `mask`.
        setting: hyperparameters of the reference.
        layout: layout of the weights, one of `attention_bridge.weights.layouts.LAYOUTS`.
        progress: called with lines of progress; None shows them on stderr if that is a terminal.

    Raises:
        CheckpointError, ConversionError, InputError: the file cannot be read, or its arrays do not fit together.
    """
    find_layout(layout)
    arrays = _read(path)
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise InputError(
            f"{path} must hold x, reference and candidate, but has no {' and no '.join(missing)}"
        )
    weights = {name: array for name, array in arrays.items() if name not in (*REQUIRED, *OPTIONAL)}
    return diagnose(
        arrays["reference"],
        arrays["candidate"],
        x=arrays["x"],
        weights=convert(weights, layout, "torch_attention")[0],
        setting=setting,
        memory=arrays.get("memory"),
        mask=arrays.get("mask"),
        progress=progress,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise InputError(f"{path} does not exist; {path.parent} holds {contents(path.parent)}")
    if path.suffix != ".npz":
        return read(path)
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as .npz: {error}") from error
