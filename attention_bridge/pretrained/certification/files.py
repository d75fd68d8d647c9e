"""The files of a checkpoint: a file, the shards of an index, or the content of a directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from attention_bridge.checkpoints import index, keras_index
from attention_bridge.checkpoints.format_detection import Found

SHARDS: Mapping[str, Callable[[Path], list[str]]] = {
    "safetensors index": index.shards_of,
    "torch index": index.shards_of,
    "msgpack index": index.shards_of,
    "keras index": keras_index.shards_of,
}


def files_of(found: Found) -> list[Path]:
    """The files of a checkpoint: the index first, then its shards; all files of a directory in the order of names.

    Raises:
        CheckpointError: the index is damaged.
    """
    path = found.path
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    shards = SHARDS[found.format](path) if found.format in SHARDS else []
    return [path, *(path.parent / shard for shard in sorted(shards))]
