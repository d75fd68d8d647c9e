"""Keras weights in several HDF5 files with an index, `.weights.json`, that maps groups of variables to files."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints import keras_h5
from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.faults import contents, nbytes, reading
from attention_bridge.checkpoints.index import LARGEST, check_shard
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec


def open(path: Path) -> Reader:
    """Open every file that an index names.

    Raises:
        CheckpointError: the file is not an index, a shard is missing or damaged, or its content differs from the index.
        InputError: h5py is not installed.
    """
    shards, total = _parse(path)
    absent = [shard for shard in shards if not (path.parent / shard).is_file()]
    if absent:
        raise CheckpointError(
            f"{path} names shards that are missing: {', '.join(absent)}; "
            f"{path.parent} holds {contents(path.parent)}"
        )
    readers: dict[str, Reader] = {}
    with ExitStack() as stack:
        for shard, groups in shards.items():
            reader = stack.enter_context(keras_h5.open(path.parent / shard))
            found = {f"/{name.rpartition('/')[0]}" for name in reader.specs}
            if found != groups:
                differing = ", ".join(sorted(found ^ groups))
                raise CheckpointError(f"{path} and {shard} disagree about its groups: {differing}")
            if twice := readers.keys() & reader.specs.keys():
                raise CheckpointError(f"{path} names two files that hold {', '.join(sorted(twice))}")
            readers |= dict.fromkeys(reader.specs, reader)
        specs = {name: reader.specs[name] for name, reader in readers.items()}
        if (came := sum(map(_counted, specs.values()))) != total:
            raise CheckpointError(
                f"{path} says that its tensors have {total:g} bytes, but they have {came:g}"
            )

        def fetch(name: str) -> np.ndarray:
            return readers[name].read(name)

        return Reader(path, "keras", specs, {}, fetch, stack.pop_all().close)


def shards_of(path: Path) -> list[str]:
    """The names of the files of an index.

    Raises:
        CheckpointError: the file is not an index.
    """
    return list(_parse(path)[0])


def _counted(spec: Spec) -> float:
    """Size of a tensor as Keras counts it: a boolean is one bit."""
    return nbytes(spec) / (8 if spec.dtype == np.bool_ else 1)


def _parse(path: Path) -> tuple[dict[str, set[str]], float]:
    """The groups of each file by the index, and the total size of their tensors in bytes."""
    no_index = f"{path} is not the index of weights of Keras"
    with reading(path, "index"):
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{no_index}: it has more than {LARGEST} bytes")
        text = path.read_bytes()
    try:
        index: Any = json.loads(text, object_pairs_hook=unique)
        total = float(index["metadata"]["total_size"])
        shards: dict[str, set[str]] = {}
        for group, names in index["weight_map"].items():
            for shard in names if isinstance(names, list) else [names]:
                check_shard(path, shard)
                shards.setdefault(shard, set()).add(group)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(no_index) from error
    if not shards:
        raise CheckpointError(f"{path} names no tensors")
    return shards, total
