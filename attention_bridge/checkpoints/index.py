"""The index of a sharded checkpoint: a JSON file that maps each tensor to a shard in the same directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints.faults import contents, reading
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.wrong_files import UNFINISHED, check_file, fault
from attention_bridge.errors import CheckpointError

LARGEST = 2**28  # bytes
MOST_NAMES = 3
LONGEST_NAME = 255  # bytes, of a file in every usual system


def open(path: Path, open_shard: Callable[[Path], Reader], *, separator: str = ".") -> Reader:
    """Open every shard that an index names.

    Args:
        path: the index.
        open_shard: function that opens one shard.
        separator: text between the parts of a name in the index, which the shards join with dots.

    Raises:
        CheckpointError: the file is not an index, a shard is missing, or a shard's tensors differ from the index.
    """
    shards, metadata = _parse(path)
    absent = [shard for shard in shards if not (path.parent / shard).is_file()]
    for unfinished in (path.with_name(shard + suffix) for shard in absent for suffix in UNFINISHED):
        if unfinished.is_file():
            check_file(unfinished)
    if absent:
        raise CheckpointError(
            f"{path} names shards that are missing: {_some(absent)}; download them; "
            f"{path.parent} holds {contents(path.parent)}"
        )
    with ExitStack() as stack:
        readers: dict[str, Reader] = {}
        kind = ""
        for shard, spelled in shards.items():
            names = {name.replace(separator, ".") for name in spelled}
            with reading(path.parent / shard, "shard"):
                check_file(path.parent / shard)
            reader = stack.enter_context(open_shard(path.parent / shard))
            if reader.specs.keys() != names:
                differing = ", ".join(sorted(reader.specs.keys() ^ names))
                raise CheckpointError(
                    f"{path} and {shard} disagree about which tensors are in it: {differing}"
                )
            readers |= dict.fromkeys(reader.specs, reader)
            kind = reader.format
        specs = {name: reader.specs[name] for name, reader in readers.items()}

        def fetch(name: str) -> np.ndarray:
            return readers[name].read(name)

        return Reader(path, kind, specs, metadata, fetch, stack.pop_all().close)


def _some(names: list[str]) -> str:
    """The first names, and the number of further ones."""
    some = ", ".join(names[:MOST_NAMES])
    return some if len(names) <= MOST_NAMES else f"{some} and {len(names) - MOST_NAMES} more"


def shards_of(path: Path) -> list[str]:
    """The names of the shards of an index.

    Raises:
        CheckpointError: the file is not an index.
    """
    return list(_parse(path)[0])


def check_shard(path: Path, shard: str) -> None:
    """Check that a shard's name is a plain file name in the directory of its index.

    Raises:
        CheckpointError: the name leads to another directory or is too long.
        TypeError: the name is not text.
    """
    # Names with a path separator of any system, and names of directories, lead elsewhere.
    if shard != Path(shard).name or shard in ("", ".", "..") or "\\" in shard or "\0" in shard:
        raise CheckpointError(f"{path} names a shard outside its directory: {shard!s}")
    if len(shard.encode(errors="surrogatepass")) > LONGEST_NAME:
        raise CheckpointError(f"{path} names a shard of more than {LONGEST_NAME} bytes: {shard[:40]}...")


def _parse(path: Path) -> tuple[dict[str, set[str]], dict[str, Any]]:
    """The tensor names of each shard, and the metadata of the index."""
    no_index = f"{path} is not the index of a sharded checkpoint"
    try:
        with reading(path, "index"):
            if path.stat().st_size > LARGEST:
                raise CheckpointError(f"{no_index}: it has more than {LARGEST} bytes")
            text = path.read_bytes()
        if wrong := fault(path, text=True, content=text):
            raise CheckpointError(f"{no_index}: it {wrong}")
        index = json.loads(text, object_pairs_hook=_unique)
        shards: dict[str, set[str]] = {}
        for name, shard in index["weight_map"].items():
            check_shard(path, shard)
            shards.setdefault(shard, set()).add(name)
        metadata = index.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise TypeError("metadata is no object")
    except CheckpointError:
        raise
    except _TwiceError as error:
        raise CheckpointError(f"{no_index}: it gives {error} twice") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(no_index) from error
    if not shards:
        raise CheckpointError(f"{path} names no tensors")
    return shards, metadata


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found
