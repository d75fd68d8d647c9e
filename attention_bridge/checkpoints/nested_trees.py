"""Conversion between nested trees of tensors and flat names joined with dots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.errors import CheckpointError

MOST_ENTRIES = 10**6
MOST_LEVELS = 100


def flatten(path: Path, tree: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Collect the tensors of nested mappings and sequences; other leaves are ignored.

    Args:
        path: the file, for messages.
        tree: nested mappings, lists and tuples of tensors and other leaves.
        is_tensor: function that says whether a node is a tensor.

    Returns:
        Tensors by name, in the tree's order.

    Raises:
        CheckpointError: there is no tensor, two have the same name, a key is neither text nor a number, or the tree
            is too large or too deep.
    """
    found: dict[str, Any] = {}
    for count, (name, node) in enumerate(_walk(path, tree, "", 0)):
        if count >= MOST_ENTRIES:
            raise CheckpointError(f"{path} is refused: it nests more than {MOST_ENTRIES} entries")
        if is_tensor(node):
            if name in found:
                raise CheckpointError(f"{path} holds two tensors that are both called {name}")
            found[name] = node
    if not found:
        raise CheckpointError(f"{path} holds no tensors")
    return found


def _walk(path: Path, node: Any, name: str, level: int) -> Iterator[tuple[str, Any]]:
    yield name, node
    if isinstance(node, Mapping):
        entries = iter(node.items())
    elif isinstance(node, list | tuple):
        entries = iter(enumerate(node))
    else:
        return
    if level >= MOST_LEVELS:
        raise CheckpointError(f"{path} is refused: it nests more than {MOST_LEVELS} levels")
    for key, below in entries:
        if not isinstance(key, str | int):
            raise CheckpointError(f"{path} cannot be read: the key {key!r:.100} is neither text nor a number")
        yield from _walk(path, below, f"{name}.{key}" if level else str(key), level + 1)


def nest(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Build the nested tree of flat names.

    Raises:
        CheckpointError: a name is the prefix of another, so that a node would be both a tensor and a subtree.
    """
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parts, last = name.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise CheckpointError(
                f"{path} cannot be written: {name} and another name are in conflict: one is a prefix of the other"
            )
        node[last] = tensor
    return tree
