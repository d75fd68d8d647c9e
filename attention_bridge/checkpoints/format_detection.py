"""Detection of a checkpoint's format; its name and its first bytes must agree."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from attention_bridge.checkpoints import directories
from attention_bridge.checkpoints.directories import USUAL as USUAL
from attention_bridge.checkpoints.faults import contents, reading
from attention_bridge.checkpoints.wrong_files import check_file
from attention_bridge.errors import CheckpointError

SUFFIXES = {
    ".safetensors.index.json": "safetensors index",
    ".bin.index.json": "torch index",
    ".msgpack.index.json": "msgpack index",
    ".safetensors": "safetensors",
    ".bin": "torch",
    ".pt": "torch",
    ".pth": "torch",
    ".npz": "npz",
    ".msgpack": "msgpack",
    ".h5": "keras",
    ".keras": "keras archive",
    ".weights.json": "keras index",
    ".gguf": "gguf",
}
BEGINNINGS = {
    b"GGUF": "gguf",
    b"\x89HDF\r\n\x1a\n": "keras",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19": "torch",
}
ZIP = b"PK\x03\x04"
ORBAX = "_METADATA"


class Found(NamedTuple):
    """A detected format, the path to open, and the evidence.

    Attributes:
        format: one of the keys of `OPENERS` in `attention_bridge.checkpoints`, or an unsupported kind, such as "zip".
        path: file or directory to open.
        evidence: the reason, in words.
    """

    format: str
    path: Path
    evidence: str


def find(path: Path) -> Found:
    """Detect the format of a file, or of the checkpoint in a directory.

    Raises:
        CheckpointError: there is no file, it is empty or of no known format, or its name and content disagree.
    """
    with reading(path, "checkpoint"):
        if path.is_dir():
            return _in_directory(path)
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; {path.parent} holds {contents(path.parent)}")
        if not path.is_file():
            raise CheckpointError(f"{path} is neither a file nor a directory")
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty")
        return _of_file(path)


def named(path: Path) -> str | None:
    """The format of a file name's suffix, or None."""
    return next((kind for suffix, kind in SUFFIXES.items() if path.name.endswith(suffix)), None)


def _in_directory(path: Path) -> Found:
    if usual := directories.usual(path):
        found = find(usual)
        return found._replace(evidence=f"the directory has {usual.name}, and {found.evidence}")
    if (path / ORBAX).is_file():
        return Found("orbax", path, f"the directory has the file {ORBAX}")
    known = [entry for entry in sorted(path.iterdir()) if entry.is_file() and named(entry)]
    one = directories.only(path, known)
    found = find(one)
    return found._replace(evidence=f"the directory has one checkpoint, {one.name}, and {found.evidence}")


def _of_file(path: Path) -> Found:
    by_name = named(path)
    check_file(path, text=by_name is None or path.suffix == ".json")
    by_content, evidence = _content(path)
    if by_name and by_content and not by_name.startswith(by_content):
        raise CheckpointError(f"{path} should be {by_name} by its name, but {evidence}")
    if by_content:
        return Found(by_name or by_content, path, evidence)
    if by_name:  # the format's own reader gives the best error message
        return Found(
            by_name, path, f"it has the name of a {by_name} file, and its first bytes show no other format"
        )
    hint = f"; give its directory, {path.parent}" if path.suffix == ".json" else ""
    raise CheckpointError(
        f"{path} is no checkpoint of a known format: its name has none of {', '.join(SUFFIXES)}{hint}"
    )


def _content(path: Path) -> tuple[str | None, str]:
    """The format of a file by its content, or None, and the evidence."""
    with path.open("rb") as file:
        start = file.read(16)
    for beginning, kind in BEGINNINGS.items():
        if start.startswith(beginning):
            return kind, f"it has the first bytes of {kind} files"
    if start.startswith(ZIP):
        return _zip_content(path)
    if start[8:9] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return "safetensors", "its first bytes are the length of a JSON header and the header's beginning"
    return None, ""


def _zip_content(path: Path) -> tuple[str | None, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # the reader of the suffix's format gives a better error message
        return None, ""
    if any(name.endswith("/data.pkl") for name in names):
        return "torch", "it is a zip file with a data.pkl, as torch.save writes"
    if "config.json" in names and any(name.startswith("model.weights.") for name in names):
        return "keras archive", "it is a zip file with a config.json and weights, as keras.Model.save writes"
    if names and all(name.endswith(".npy") for name in names):
        return "npz", "it is a zip file of .npy entries, as np.savez writes"
    return "zip", "it is a zip file of other things than tensors"
