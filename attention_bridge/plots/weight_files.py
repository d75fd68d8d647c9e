"""Reading attention weights and tokens from files, for the command `attention-bridge plot`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints import npz
from attention_bridge.errors import InputError

TEXTS = ("tokens", "key_tokens")


class Stored(NamedTuple):
    """Contents of a file: weights `(heads, query, key)` or `(query, key)` per layer, and tokens or None."""

    layers: list[np.ndarray]
    tokens: list[str] | None
    key_tokens: list[str] | None


def read_weights(path: Path) -> Stored:
    """Read attention weights from an npz or safetensors file.

    A single array has shape `(layers, heads, query, key)`, `(heads, query, key)` or `(query, key)`. Several arrays are
    one layer each, in the natural order of their names; of `(batch, heads, query, key)` the first element is used. In
    npz, `tokens` and `key_tokens` may be arrays of strings.

    Raises:
        CheckpointError: the file cannot be read or holds other types.
        InputError: the file has another format, or holds no weights.
    """
    found = checkpoints.find(path)
    if found.format not in ("npz", "safetensors"):
        raise InputError(f"{path} must be an npz or a safetensors file, got {found.format}")
    is_npz = found.format == "npz"
    texts = npz.read_texts(found.path, TEXTS) if is_npz else {}
    with npz.open(found.path, without=texts) if is_npz else checkpoints.open(path) as reader:
        arrays = {name: np.array(array) for name, array in reader.items()}
    if not arrays:
        raise InputError(f"{path} holds no weights")
    for name, array in arrays.items():
        if array.ndim not in (2, 3, 4):
            expected = "(layers, heads, query, key), (heads, query, key) or (query, key)"
            raise InputError(f"{name} in {path} must have shape {expected}, got {array.shape}")
    layers = [arrays[name] for name in sorted(arrays, key=_natural)]
    if len(layers) == 1 and layers[0].ndim == 4:
        layers = list(layers[0])
    return Stored(layers, *(texts.get(name) for name in TEXTS))


def read_tokens(option: str, given: str) -> Sequence[str]:
    """Parse tokens given to the command: `a,b,c`, or `@FILE` with one token per line.

    Raises:
        InputError: the file cannot be read or is not UTF-8 text.
    """
    if not given.startswith("@"):
        return given.split(",")
    try:
        return Path(given[1:]).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{option} {given} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {given} must be UTF-8 text") from error


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that compares digits by value: layer 2 comes before layer 10."""
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)
    ]
