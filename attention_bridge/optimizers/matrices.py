"""Rows and columns of torch's matrices in the axes of JAX leaves, for update rules that treat matrices as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.optimizers.names import Route
from attention_bridge.weights import convert


class Matrix(NamedTuple):
    """The axes of a JAX leaf, by their role in the torch parameter `(..., rows, columns)`.

    Axes of size 1 have no role.

    Attributes:
        shape: shape of the torch parameter.
        rows: axes of the leaf that the rows became.
        columns: axes of the leaf that the columns became.
    """

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


# The matrix in each leaf, by name; None for parameters of fewer than two axes.
Matrices: TypeAlias = Mapping[str, Matrix | None]


def matrices_of(shapes: Mapping[str, tuple[int, ...]], chosen: Mapping[str, str], route: Route) -> Matrices:
    """Find the rows and columns of torch's parameters in JAX, by converting row and column numbers.

    Args:
        shapes: shape of each parameter, by name in the source layout.
        chosen: the parameters whose update rule needs the whole tensor, and the names of these rules.
        route: the layouts.

    Raises:
        ConversionError: the parameters do not fit the layouts.
        InputError: a leaf is only a part of a chosen parameter, or several, or mixes its rows and columns.
    """
    numbers = [_numbers(shapes, axis) for axis in (-2, -1, None)]
    (rows, report), (columns, _), (rest, _) = (convert(each, *route) for each in numbers)
    found: dict[str, Matrix | None] = {}
    for match in report.matched:
        ours = [name for name in match.given if name in chosen]
        if not ours:
            continue
        rule, shape = chosen[ours[0]], shapes[ours[0]]
        if len(match.given) > 1 or rows[match.target].size != int(np.prod(shape)):
            raise InputError(
                f"a step of {rule} depends on a parameter as a whole, so that each parameter of model must become one "
                f"in JAX, but {match.target} is made of {_part(match.given, shape, rows[match.target])}"
            )
        parts = (rows[match.target], columns[match.target], rest[match.target])
        found[match.target] = _matrix(match.target, ours[0], shape, parts, rule) if len(shape) > 1 else None
    return found


def _numbers(shapes: Mapping[str, tuple[int, ...]], axis: int | None) -> dict[str, np.ndarray]:
    """For each tensor, its index along an axis; for None, the index over all axes but the last two."""
    numbered = {}
    for name, shape in shapes.items():
        if axis is None:
            lead = shape[:-2] if len(shape) > 2 else ()
            index = np.arange(int(np.prod(lead))).reshape(*lead, *(1,) * (len(shape) - len(lead)))
        elif len(shape) < -axis:
            index = np.zeros((1,) * len(shape), np.int64)
        else:
            index = np.arange(shape[axis]).reshape(-1, *(1,) * (-axis - 1))
        numbered[name] = np.broadcast_to(index, shape)
    return numbered


def _matrix(
    target: str, source: str, shape: tuple[int, ...], numbers: tuple[np.ndarray, ...], rule: str
) -> Matrix:
    roles: tuple[list[int], list[int], list[int]] = ([], [], [])
    for axis in range(numbers[0].ndim):
        changing = [role for role, x in enumerate(numbers) if np.diff(x, axis=axis).any()]
        if len(changing) > 1:
            raise InputError(
                f"a step of {rule} needs the rows and columns of each matrix, but {target} mixes the two of {source}"
            )
        for role in changing:
            roles[role].append(axis)
    return Matrix(shape, tuple(roles[0]), tuple(roles[1]))


def _part(given: tuple[str, ...], shape: tuple[int, ...], leaf: np.ndarray) -> str:
    if len(given) > 1:
        return ", ".join(given)
    return f"{leaf.size} of the {int(np.prod(shape))} elements of {given[0]}"
