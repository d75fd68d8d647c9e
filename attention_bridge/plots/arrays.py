"""Conversion of the arrays to be drawn to numpy, with checked axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.weights.leaves import to_numpy


def numbers(name: str, given: Any) -> np.ndarray:
    """Convert an array of real numbers from either framework or numpy to at least float32.

    Raises:
        TypeError: `given` is not an array.
        InputError: the array is empty, does not hold real numbers, or holds values that are not finite.
    """
    array = to_numpy(name, given)
    if array.dtype.kind in "bcmMOSU":
        raise InputError(f"{name} must hold real numbers, got {array.dtype}")
    if not array.size:
        raise InputError(f"{name} must not be empty, got {array.shape}")
    array = array.astype(np.promote_types(array.dtype, np.float32) if array.dtype.kind == "f" else np.float32)
    if wrong := int((~np.isfinite(array)).sum()):
        raise InputError(f"{name} must be finite, got {wrong} of {array.size} that are not")
    return array


def heads_of(name: str, weights: Any, batch: int = 0) -> np.ndarray:
    """Attention weights of one element of the batch.

    Args:
        name: name of the argument, for messages.
        weights: attention weights, `(..., heads, query, key)`, or `(query, key)` for a single head.
        batch: element of the batch, counted over all axes before the heads.

    Returns:
        The weights, `(heads, query, key)`.

    Raises:
        TypeError: the weights are not an array.
        InputError: the weights have too few axes, or the element does not exist.
    """
    array = numbers(name, weights)
    if array.ndim < 2:
        raise InputError(
            f"{name} must have shape (..., heads, query, key) or (query, key), got {array.shape}"
        )
    array = array[None] if array.ndim == 2 else array
    elements = array.reshape(math.prod(array.shape[:-3]), *array.shape[-3:])
    return elements[place("batch", batch, len(elements))]


def layers_of(name: str, weights: Any, batch: int = 0) -> np.ndarray:
    """Attention weights of one element of the batch in every layer.

    Args:
        name: name of the argument, for messages.
        weights: attention weights of a single layer, or a list or tuple of them, one per layer.
        batch: element of the batch, counted over all axes before the heads.

    Returns:
        The weights, `(layers, heads, query, key)`.

    Raises:
        TypeError: the weights are not arrays.
        InputError: the list is empty, or the layers differ in shape.
    """
    if not isinstance(weights, list | tuple):
        return heads_of(name, weights, batch)[None]
    if not weights:
        raise InputError(f"{name} must have at least one layer, got none")
    layers = [heads_of(f"{name}[{i}]", layer, batch) for i, layer in enumerate(weights)]
    for i, layer in enumerate(layers):
        if layer.shape != layers[0].shape:
            raise InputError(
                f"{name}[{i}] must have the shape of {name}[0], (heads, query, key) = {layers[0].shape}, "
                f"got {layer.shape}"
            )
    return np.stack(layers)


def place(name: str, index: int, length: int) -> int:
    """Return the index if it is in range.

    Raises:
        InputError: the index is not from 0 to `length - 1`.
    """
    if not 0 <= index < length:
        raise InputError(f"{name} must be from 0 to {length - 1}, got {index}")
    return index


def labels(
    query_tokens: Sequence[str] | None,
    key_tokens: Sequence[str] | None,
    shape: tuple[int, int],
    *,
    of: str = "the weights",
) -> tuple[list[str], list[str]]:
    """Make one label per query and one per key: the tokens, or numbers from 0 without tokens.

    Args:
        query_tokens: labels of the rows, one per query; None for numbers from 0.
        key_tokens: labels of the columns, one per key; None for the query labels if there are as many, else numbers.
        shape: numbers of queries and keys.
        of: name of the array that the tokens label, for messages.

    Raises:
        InputError: the number of tokens does not fit the shape.
    """
    if key_tokens is None and shape[0] == shape[1]:
        key_tokens = query_tokens
    both = []
    for name, tokens, length in zip(
        ("query_tokens", "key_tokens"), (query_tokens, key_tokens), shape, strict=True
    ):
        texts = [str(token) for token in (range(length) if tokens is None else tokens)]
        if len(texts) != length:
            raise InputError(f"{name} must be {length} labels, as the shape of {of} needs, got {len(texts)}")
        both.append(texts)
    return both[0], both[1]
