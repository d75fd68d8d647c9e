"""Parameters of a torch model and leaves of a JAX tree, named alike through the layouts of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.weights import Layout, convert, transfer


class Route(NamedTuple):
    """Between which layouts weights go, and what the shapes do not say; as in `transfer`."""

    source: Layout | str
    target: Layout | str
    axes: Mapping[str, int] | None = None

    def carry(self, given: Any, wanted: Any) -> Any:
        """The tensors of `given` in a tree like `wanted`; as in `transfer`."""
        return transfer(given, wanted, source_layout=self.source, target_layout=self.target, axes=self.axes)


def leaf_name(path: tuple[Any, ...]) -> str:
    """The dotted name of a leaf, whether its variable or its array is the leaf of the tree."""
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
        path = path[:-1]  # the value of an NNX variable
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def with_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """A tree of the same structure, with the leaves of these names."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[leaf_name(path)], tree)


def spread(
    values: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], route: Route, what: str
) -> dict[str, int]:
    """A number for each tensor of the source layout, as a number for each tensor of the target layout.

    Args:
        values: by the source's names.
        shapes: of the same tensors.
        route: the layouts.
        what: the number stands for, in an error.

    Raises:
        ConversionError: the tensors do not fit the layouts.
        InputError: a tensor of the target is made of tensors with different numbers.
    """
    # Views of one number each, of a tensor's shape: they move as the tensor does.
    arrays = {name: np.broadcast_to(np.asarray(value), shapes[name]) for name, value in values.items()}
    converted, report = convert(arrays, *route)
    for match in report.matched:
        numbers = np.unique(converted[match.target])
        if len(numbers) > 1:
            raise InputError(
                f"{match.target} is made of {', '.join(match.given)}, which differ in their {what}: "
                f"{', '.join(map(str, numbers))}"
            )
    return {name: int(array.flat[0]) if array.size else 0 for name, array in converted.items()}
