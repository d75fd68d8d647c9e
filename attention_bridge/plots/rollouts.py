"""Attention rollout (Abnar & Zuidema 2020, Quantifying attention flow in transformers).

A_l is the attention matrix of layer l, averaged over heads; the identity I is for the residual connection:

    rollout = Â_L ⋯ Â_2 Â_1    with    Â_l = 0.5 A_l + 0.5 I

Row i holds the contribution of each input token to token i of the last layer. If the rows of every A sum to 1, so do
the rows of the rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.plots.arrays import numbers


def rollout(weights: Sequence[Any]) -> np.ndarray:
    """Compute the attention rollout over all layers.

    Args:
        weights: attention weights, a list with one array per layer, first layer first, `(..., heads, tokens, tokens)`,
            from any framework.

    Returns:
        The rollout, `(..., tokens, tokens)`, in float64.

    Raises:
        TypeError: the weights are not arrays.
        InputError: `weights` is not a list or is empty, a layer has another shape, or layers differ in shape.
    """
    if not isinstance(weights, list | tuple) or not weights:
        got = f"{weights!r}" if isinstance(weights, list | tuple) else f"a {type(weights).__name__}"
        raise InputError(f"weights must be a list with one array for each layer, got {got}")
    total: np.ndarray | None = None
    for i, given in enumerate(weights):
        layer = numbers(f"weights[{i}]", given).astype(np.float64)
        if layer.ndim < 3 or layer.shape[-1] != layer.shape[-2]:
            raise InputError(f"weights[{i}] must have shape (..., heads, tokens, tokens), got {layer.shape}")
        attention = layer.mean(axis=-3)  # ... tokens tokens
        if total is not None and attention.shape != total.shape:
            raise InputError(
                f"weights[{i}] must have the shape of weights[0] but for the heads, "
                f"got {attention.shape} and {total.shape} without them"
            )
        step = 0.5 * attention + 0.5 * np.eye(layer.shape[-1])
        total = step if total is None else step @ total
    assert total is not None
    return total
