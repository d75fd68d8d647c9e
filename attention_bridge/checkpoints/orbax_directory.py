"""Orbax checkpoints: directories, the usual format of Flax NNX programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints.dtypes import ALL, check_writable, supported
from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.faults import check_inflation, nbytes, reading, writing
from attention_bridge.checkpoints.nested_trees import flatten, nest
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import Items, check_names, gathered, no_metadata
from attention_bridge.errors import CheckpointError, require
from attention_bridge.weights.leaves import Spec

KIND = "Orbax checkpoint"
ARRAYS = (".zarray", "zarr.json")  # metadata files, one in the directory of each array
EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")  # types of nodes without values


def open(path: Path) -> Reader:
    """Open an Orbax checkpoint of one tree. Tensors are restored one at a time.

    Raises:
        CheckpointError: the directory is not such a checkpoint or lacks files.
        InputError: orbax is not installed.
    """
    require(["orbax"], extra="jax")
    import orbax.checkpoint as ocp

    path = path.absolute()
    with reading(path, KIND), ocp.PyTreeCheckpointer() as checkpointer:
        described = checkpointer.metadata(path).item_metadata
        if described is None:
            raise CheckpointError(f"{path} is damaged or no {KIND} of one tree: Orbax finds no tensors in it")
        tree = described.tree
        found = flatten(path, tree, lambda leaf: hasattr(leaf, "shape") and hasattr(leaf, "dtype"))
        _check_all_listed(path)
        _check_sizes(path, found)
        specs = {
            name: Spec(tuple(leaf.shape), supported(path, name, np.dtype(leaf.dtype)))
            for name, leaf in found.items()
        }

    def fetch(name: str) -> np.ndarray:
        args = ocp.args.PyTreeRestore(
            item=_alone(tree, name, 0, ocp.PLACEHOLDER),
            restore_args=_alone(tree, name, *[ocp.RestoreArgs(restore_type=np.ndarray)] * 2),
            partial_restore=True,
        )
        with ocp.PyTreeCheckpointer() as checkpointer:
            restored = checkpointer.restore(path, args=args)
        return flatten(path, restored, lambda leaf: isinstance(leaf, np.ndarray))[name]

    return Reader(path, "orbax", specs, {}, fetch)


def _check_sizes(path: Path, found: Mapping[str, Any]) -> None:
    """Check that no chunk is larger than its array, and that no array or chunk is far larger than the directory.

    Decoding such arrays could crash the process.
    """
    size_of_all = sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    declared = 0
    for name, leaf in found.items():
        chunk = getattr(getattr(leaf, "storage", None), "chunk_shape", None) or ()
        if any(step > max(size, 1) for step, size in zip(chunk, leaf.shape, strict=False)):
            raise CheckpointError(
                f"{path} is damaged: {name} has the shape {tuple(leaf.shape)} and chunks of {tuple(chunk)}"
            )
        declared += max(math.prod(leaf.shape), math.prod(chunk)) * np.dtype(leaf.dtype).itemsize
    check_inflation(path, declared, size_of_all)


def _check_all_listed(path: Path) -> None:
    """Check that Orbax would skip no tensor: each stored one is listed, and none is marked as not to be read."""
    described = path / "_METADATA"
    if not described.is_file():
        return
    entries = json.loads(described.read_bytes(), object_pairs_hook=unique)["tree_metadata"]
    for name, entry in entries.items():
        value = entry["value_metadata"]
        if value.get("skip_deserialize") and value.get("value_type") not in EMPTY:
            raise CheckpointError(f"{path} is refused: it marks {name} as not to be read")
    listed = {
        ".".join(str(part["key"]) for part in entry["key_metadata"])
        for entry in entries.values()
        if not entry["value_metadata"].get("skip_deserialize")
    }
    if unlisted := sorted(_stored(path) - listed):
        raise CheckpointError(
            f"{path} is damaged: it holds {unlisted[0]}, which {described.name} does not list"
        )


def _stored(path: Path) -> set[str]:
    """The names of the arrays in the directory, or in its OCDBT database."""
    if (path / "manifest.ocdbt").is_file():
        import tensorstore

        base = {"driver": "file", "path": f"{path}/"}
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        keys = [key.decode() for key in store.list().result()]
    else:
        keys = [f"{entry.parent.name}/{entry.name}" for kind in ARRAYS for entry in path.glob(f"*/{kind}")]
    return {above for above, _, last in (key.rpartition("/") for key in keys) if last in ARRAYS}


def _alone(tree: Any, name: str, chosen: Any, other: Any, above: str = "") -> Any:
    """Reduce a tree to the branch of one flat name; sequences, which cannot have gaps, are kept whole."""

    def below(key: Any, node: Any) -> Any:
        return _alone(node, name, chosen, other, f"{above}{key}.")

    if isinstance(tree, Mapping):
        leading = {key: node for key, node in tree.items() if f"{name}.".startswith(f"{above}{key}.")}
        return {key: below(key, node) for key, node in (leading or tree).items()}
    if isinstance(tree, list | tuple):
        return type(tree)([below(key, node) for key, node in enumerate(tree)])
    return chosen if f"{name}." == above else other


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Write a directory that Orbax restores as a tree. Orbax writes it at once, so all tensors are held in memory.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        InputError: orbax is not installed.
    """
    require(["orbax"], extra="jax")
    import orbax.checkpoint as ocp

    check_writable(path, "Orbax", specs, ALL)
    check_names(path, specs)
    no_metadata(path, "Orbax", metadata)
    if not specs:
        raise CheckpointError(f"{path} cannot be written: Orbax has no checkpoints without tensors")
    if empty := [name for name, spec in specs.items() if nbytes(spec) == 0]:
        raise CheckpointError(
            f"{path} cannot be written: Orbax has no arrays without elements, as {empty[0]} is"
        )
    tree = nest(path, gathered(path, items, specs))
    with writing(path, Exception), ocp.PyTreeCheckpointer() as checkpointer:
        # Orbax makes a temporary directory beside its target, so the target is one level down at first.
        below = path.absolute() / "tree"
        path.mkdir()
        checkpointer.save(below, tree)
        for entry in list(below.iterdir()):
            entry.rename(path / entry.name)
        below.rmdir()
