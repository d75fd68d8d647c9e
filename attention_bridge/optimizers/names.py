"""Matching of torch parameters with leaves of a JAX tree by name, through weight layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.weights import Layout, convert, transfer


class Route(NamedTuple):
    """The layouts of a conversion, and sizes of axes that the shapes do not give.

    Attributes:
        source: layout to convert from, or its name.
        target: layout to convert to, or its name.
        axes: sizes of axes that the shapes do not give; None for none.
    """

    source: Layout | str
    target: Layout | str
    axes: Mapping[str, int] | None = None

    def carry(self, given: Any, wanted: Any) -> Any:
        """Convert the tensors of `given` to a tree like `wanted`, with `attention_bridge.weights.transfer`."""
        return transfer(given, wanted, source_layout=self.source, target_layout=self.target, axes=self.axes)


def leaf_name(path: tuple[Any, ...]) -> str:
    """The dotted name of a leaf, which may be an NNX variable or the array in it."""
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
        path = path[:-1]  # the value of an NNX variable
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def with_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """A tree with the structure of `tree` and the given leaves, by name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[leaf_name(path)], tree)


def spread(
    values: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], route: Route, what: str
) -> dict[str, int]:
    """Map one integer per tensor from the names of the source layout to the names of the target layout.

    Args:
        values: an integer for each tensor, by name in the source layout.
        shapes: shapes of the same tensors.
        route: the layouts.
        what: meaning of the integers, for errors.

    Returns:
        An integer for each tensor, by name in the target layout.

    Raises:
        ConversionError: the tensors do not fit the layouts.
        InputError: a tensor of the target is made of tensors with different integers.
    """
    # Views of one number with the shape of a tensor are converted like the tensor.
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
