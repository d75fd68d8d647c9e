"""Layers that a format keeps in one tensor, along its first axis: taken apart on the way in, stacked on the way out.

Flax Linen's `nn.scan` makes such tensors: `layers.attention.q_proj.kernel` of shape `(num_layers, in, out)` stands for
`layers.0.attention.q_proj.kernel`, `layers.1...` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

MOST_LAYERS = 10_000

Item = TypeVar("Item")


def unstack(name: str, array: np.ndarray, part: str) -> dict[str, np.ndarray] | None:
    """The tensors that `name` stands for, or None if it is not stacked.

    Args:
        name: of the tensor, with dots.
        array: the tensor, a layer along the first axis.
        part: what the layers are called, the name before the number.

    Raises:
        ValueError: it has no axis to take layers from, or a longer one than there are layers in any model.
    """
    found = re.fullmatch(rf"((?:.+\.)?{re.escape(part)}\.)(?!\d+\.)(.+)", name)
    if found is None:
        return None
    if array.ndim == 0:
        raise ValueError(f"{name} must have an axis of layers, got shape ()")
    if len(array) > MOST_LAYERS:
        raise ValueError(f"{name} must have at most {MOST_LAYERS} layers, got {len(array)}")
    before, after = found.groups()
    return {f"{before}{index}.{after}": array[index] for index in range(array.shape[0])}


def stack(
    items: Mapping[str, Item], part: str, join: Callable[[str, list[Item]], Item]
) -> tuple[dict[str, Item], list[tuple[str, list[int]]]]:
    """Put together what belongs to the layers of one stack.

    Args:
        items: by name; those of layers are `part.0.rest`, `part.1.rest`, ...
        part: what the layers are called.
        join: makes one item of a name and its items in the order of the layers.

    Returns:
        All items by their names, stacked where they were of layers; and the names whose layers have gaps, with the
        numbers that there are.
    """
    layers: dict[str, dict[int, Item]] = {}
    joined: dict[str, Item] = {}
    for name, item in items.items():
        found = re.fullmatch(rf"((?:.+\.)?{re.escape(part)}\.)(\d+)\.(.+)", name)
        if found is None:
            joined[name] = item
        else:
            layers.setdefault(f"{found[1]}{found[3]}", {})[int(found[2])] = item
    most = max(map(len, layers.values()), default=0)
    gaps = []
    for name, numbered in layers.items():
        if sorted(numbered) == list(range(most)):
            joined[name] = join(name, [numbered[index] for index in range(most)])
        else:
            gaps.append((name, sorted(numbered)))
    return joined, gaps
