"""Splitting and stacking of tensors that hold all layers, or all experts, along their first axis.

Flax Linen's `nn.scan` makes such tensors: `layers.attention.q_proj.kernel` of shape `(num_layers, in, out)` holds
`layers.0.attention.q_proj.kernel`, `layers.1...` and so on. Experts are stacked likewise in each layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

MOST_LAYERS = 10_000

Item = TypeVar("Item")


def first(name: str, part: str) -> str:
    """The name of the first single tensor in a stacked one; `name` if it is not the name of a stacked tensor.

    Args:
        name: name of the tensor, separated by dots.
        part: name of the module list, before the number.
    """
    found = _parted(name, part)
    return name if found is None else f"{found[1]}0.{found[2]}"


def unstack(name: str, array: np.ndarray, part: str, axis: int = 0) -> dict[str, np.ndarray] | None:
    """Split a stacked tensor into one tensor per layer or expert; None if `name` is not the name of a stacked tensor.

    Args:
        name: name of the tensor, separated by dots.
        array: tensor with the layers along one axis.
        part: name of the layer list, before the layer number.
        axis: axis of the layers.

    Raises:
        ValueError: the array has no axes, or more than 10,000 layers.
    """
    found = _parted(name, part)
    if found is None:
        return None
    if array.ndim <= axis:
        raise ValueError(f"{name} must have {part} on axis {axis}, got shape {array.shape}")
    if array.shape[axis] > MOST_LAYERS:
        raise ValueError(f"{name} must have at most {MOST_LAYERS} {part}, got {array.shape[axis]}")
    before, after = found.groups()
    layers = np.moveaxis(array, axis, 0)
    return {f"{before}{index}.{after}": layers[index] for index in range(len(layers))}


def _parted(name: str, part: str) -> re.Match[str] | None:
    """The name of a stacked tensor in two parts, before and after the number of a single one."""
    return re.fullmatch(rf"((?:.+\.)?{re.escape(part)}\.)(?!\d+\.)(.+)", name)


def stack(
    items: Mapping[str, Item], part: str, join: Callable[[str, list[Item]], Item]
) -> tuple[dict[str, Item], list[tuple[str, list[int]]]]:
    """Stack the items of single layers.

    Args:
        items: items by name; items of layers are named `part.0.rest`, `part.1.rest`, ...
        part: name of the layer list, before the layer number.
        join: function of a name and its items in layer order that returns the stacked item.

    Returns:
        All items by name, with layers stacked; and the names with missing layers, each with the layer numbers
        that exist.
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
