"""Sharded safetensors checkpoints: several files with an index."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from attention_bridge.checkpoints import index, safetensors_file
from attention_bridge.checkpoints.atomic import (
    calling,
    check_place,
    ending_by_signal,
    flush,
    flush_entries,
    replacing,
)
from attention_bridge.checkpoints.faults import nbytes, writing
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.temporaries import remove, remove_stale, temporary_name
from attention_bridge.checkpoints.write_checks import Items, promised
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec


def open(path: Path) -> Reader:
    """Open a sharded checkpoint by its index.

    Raises:
        CheckpointError: the index or a shard is missing or damaged, or they disagree.
    """
    return index.open(path, safetensors_file.open)


def write(
    path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str], max_shard_bytes: int
) -> None:
    """Write shards and then their index; an existing checkpoint is removed only after that.

    Args:
        path: name of the unsharded file, `model.safetensors`. The index is called `model.safetensors.index.json`,
            the shards `model-00001-of-00003.safetensors` and so on. If all tensors fit into one shard, `path` itself
            is written.
        items: pairs of name and array, in any order.
        specs: shape and dtype of each tensor, by name; shards are filled in this order.
        metadata: text to store in every shard.
        max_shard_bytes: largest size of the tensors in a shard; a larger tensor has a shard of its own.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        TypeError: metadata is not text.
    """
    check_place(path)
    safetensors_file.check(path, specs, metadata)
    parts = plan(specs, max_shard_bytes)
    if len(parts) < 2:
        with replacing(path) as temporary:
            safetensors_file.write(temporary, items, specs, metadata)
        remove_index(path)
        return
    remove_stale(path.parent)
    with ending_by_signal():
        _replace(path, items, specs, metadata, parts)


def _replace(
    path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str], parts: list[list[str]]
) -> None:
    names = _shard_names(path, len(parts))
    target = path.with_name(f"{path.name}.index.json")
    before = _names_before(target)
    temporaries = [temporary_name(path.with_name(name)) for name in names]
    placed: list[Path] = []
    try:
        with ExitStack() as stack:
            stack.enter_context(writing(path))
            for temporary in temporaries:
                stack.enter_context(calling(temporary, path))
            _write_shards(path, temporaries, parts, items, specs, metadata)
            for temporary, name in zip(temporaries, names, strict=True):
                flush(temporary)
                placed.append(path.with_name(name))
                temporary.rename(placed[-1])
            with replacing(target) as new_index:
                new_index.write_text(json.dumps(index_of(names, parts, specs), indent=2), encoding="utf-8")
    except BaseException:
        if _names_before(target) != names:  # else the interruption came after the new index was written
            for shard in placed:
                remove(shard)
        raise
    finally:
        for temporary in temporaries:
            remove(temporary)
    with suppress(OSError):  # the new checkpoint is complete; leftovers of the old one are no error
        for name in {path.name, *_to_remove(path, before)} - {*names}:
            path.with_name(name).unlink(missing_ok=True)
        flush_entries(path.parent)


def remove_index(path: Path) -> None:
    """Remove the index and the shards of an older checkpoint, after `path` itself was written."""
    target = path.with_name(f"{path.name}.index.json")
    before = _names_before(target)
    with suppress(OSError):  # the new checkpoint is complete without this
        for name in [target.name, *_to_remove(path, before)]:
            path.with_name(name).unlink(missing_ok=True)


def plan(specs: Mapping[str, Spec], max_shard_bytes: int) -> list[list[str]]:
    """Assign tensors to shards in order, each shard as full as possible.

    Raises:
        CheckpointError: `max_shard_bytes` is not positive.
    """
    if max_shard_bytes < 1:
        raise CheckpointError(f"max_shard_bytes is at least 1, but got {max_shard_bytes}")
    parts: list[list[str]] = []
    room = 0
    for name, spec in specs.items():
        if nbytes(spec) > room or not parts:
            parts.append([])
            room = max_shard_bytes
        parts[-1].append(name)
        room -= nbytes(spec)
    return parts


def _write_shards(
    path: Path,
    temporaries: list[Path],
    parts: list[list[str]],
    items: Items,
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str],
) -> None:
    with ExitStack() as stack:
        files: dict[str, safetensors_file.Open] = {}
        for temporary, part in zip(temporaries, parts, strict=True):
            chosen = {name: specs[name] for name in part}
            file = stack.enter_context(
                safetensors_file.Open(temporary, *safetensors_file.arranged(temporary, chosen, metadata))
            )
            files |= dict.fromkeys(part, file)
        for name, array in promised(path, items, specs):
            files[name].put(name, array)


def _shard_names(path: Path, count: int) -> list[str]:
    """Names for the shards: the usual ones, or tagged ones if any exists, so that no existing shard is touched."""
    for tag in ("", f"-{uuid.uuid4().hex[:8]}"):
        names = [f"{path.stem}{tag}-{i + 1:05}-of-{count:05}{path.suffix}" for i in range(count)]
        if not any(path.with_name(name).exists() for name in names):
            break
    return names


def _to_remove(path: Path, names: list[str]) -> list[str]:
    """The files of an older index that are named like shards of `path`; an index may name any file."""
    ours = re.compile(rf"{re.escape(path.stem)}(-[0-9a-f]{{8}})?-\d{{5}}-of-\d{{5}}{re.escape(path.suffix)}")
    return [name for name in names if ours.fullmatch(name)]


def _names_before(target: Path) -> list[str]:
    try:
        return index.shards_of(target)
    except CheckpointError:
        return []


def index_of(names: list[str], parts: list[list[str]], specs: Mapping[str, Spec]) -> dict[str, object]:
    """The index of shards, from their names and the tensors of each."""
    weight_map = {name: shard for shard, part in zip(names, parts, strict=True) for name in part}
    return {"metadata": {"total_size": sum(map(nbytes, specs.values()))}, "weight_map": weight_map}
