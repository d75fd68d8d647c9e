"""Msgpack files of `flax.serialization.to_bytes`, in one file or in shards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints import index
from attention_bridge.checkpoints.dtypes import ALL, check_writable, native, supported
from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.faults import reading, writing
from attention_bridge.checkpoints.nested_trees import flatten, nest
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items, check_names, gathered, no_metadata
from attention_bridge.errors import require
from attention_bridge.weights.leaves import Spec

ARRAYS = (1, 3)
EXTENSIONS = (1, 2, 3)  # arrays, complex numbers and numpy's scalars


def open(path: Path) -> Reader:
    """Open a Flax msgpack file. The format has no table of contents, so all of it is read at once.

    Raises:
        CheckpointError: the file is damaged, is not a Flax msgpack file, or holds no tensors.
        InputError: flax is not installed.
    """
    require(["flax"], extra="jax")
    from flax import serialization

    with reading(path, "Flax msgpack file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated dtype names of numpy
        encoded = path.read_bytes()
        _check(encoded)
        found = flatten(path, serialization.msgpack_restore(encoded), _is_tensor)
        tensors = {name: np.asarray(array) for name, array in found.items()}
        specs = {
            name: Spec(array.shape, supported(path, name, array.dtype)) for name, array in tensors.items()
        }

    def fetch(name: str) -> np.ndarray:
        array = tensors[name]
        return array.astype(native(array.dtype))

    return Reader(path, "msgpack", specs, {}, fetch, tensors.clear)


def open_shards(path: Path) -> Reader:
    """Open a sharded checkpoint by its index, whose names have slashes.

    Raises:
        CheckpointError: the index or a shard is missing or damaged, or they disagree.
        InputError: flax is not installed.
    """
    require(["flax"], extra="jax")
    return index.open(path, open, separator="/")


def _check(encoded: bytes) -> None:
    """Raise for content that Flax would drop or guess: a duplicate key, an unknown type, a negative size."""
    import msgpack

    def known(code: int, data: bytes) -> None:
        if code not in EXTENSIONS:
            raise ValueError(f"it holds a value of the type {code}, which Flax does not know")
        if code in ARRAYS:
            shape = msgpack.unpackb(data, raw=False)[0]
            if not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"it holds an array of the shape {shape!r:.100}")

    msgpack.unpackb(encoded, object_pairs_hook=unique, ext_hook=known, raw=False)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic)


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Write a nested tree, split at the dots of the names. Flax writes it at once, so all tensors are held in memory.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        InputError: flax is not installed.
    """
    require(["flax"], extra="jax")
    from flax import serialization

    check_writable(path, "msgpack", specs, ALL)
    check_names(path, specs)
    no_metadata(path, "msgpack", metadata)
    tree = nest(path, gathered(path, items, specs))
    encoded = serialization.msgpack_serialize(tree, in_place=True)
    with writing(path):
        path.write_bytes(encoded)
