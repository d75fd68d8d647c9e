"""What is given to be drawn, as numpy arrays whose axes are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.weights.leaves import to_numpy


def numbers(name: str, given: Any) -> np.ndarray:
    """The real numbers of an array from either framework or numpy, in at least float32.

    Raises:
        TypeError: it is no array.
        InputError: it is empty, holds other things than real numbers, or numbers that are not finite.
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
    """The heads of one element of the batch.

    Args:
        name: of the argument, for messages.
        weights: `(..., heads, query, key)`, or `(query, key)` for a single head.
        batch: which element, counted over all axes before the heads.

    Returns:
        `(heads, query, key)`.

    Raises:
        TypeError: the weights are no array.
        InputError: there are too few axes, or no such element.
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
    """The heads of one element of the batch in every layer.

    Args:
        name: of the argument, for messages.
        weights: a list or tuple with the weights of each layer, or those of a single layer.
        batch: which element.

    Returns:
        `(layers, heads, query, key)`.

    Raises:
        TypeError: the weights are no arrays.
        InputError: there are none, or the layers differ in shape.
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
    """The index, if there is one such.

    Raises:
        InputError: it is not from 0 to `length - 1`.
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
    """One label for each query and one for each key: tokens, or numbers from 0 where there are none.

    Args:
        query_tokens: if given, as many as queries.
        key_tokens: if given, as many as keys; by default those of the queries if there are as many.
        shape: how many queries and keys there are.
        of: what the tokens belong to, for messages.

    Raises:
        InputError: the number of tokens is another.
    """
    if key_tokens is None and shape[0] == shape[1]:
        key_tokens = query_tokens
    both = []
    for name, tokens, length in zip(
        ("query_tokens", "key_tokens"), (query_tokens, key_tokens), shape, strict=True
    ):
        texts = [str(token) for token in (range(length) if tokens is None else tokens)]
        if len(texts) != length:
            raise InputError(f"{name} must be {length}, one for each of {of}, got {len(texts)}")
        both.append(texts)
    return both[0], both[1]
