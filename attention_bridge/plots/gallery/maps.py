"""The outputs of a mechanism as matrices, with one row per query and one column per key.

| kind        | meaning of a cell                                                                             |
|-------------|-----------------------------------------------------------------------------------------------|
| `weights`   | attention weight of query i on key j, in the first head                                       |
| `effective` | equivalent weight of a mechanism that computes none, such as a recurrent one                  |
| `scores`    | score of i and j, or similarity of the vectors added to them, for mechanisms without weights  |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from einops import rearrange

from attention_bridge.catalogue import Mechanism
from attention_bridge.plots.gallery.sentence import GRID

EFFECTIVE = ("linear",)  # families that compute their output without attention weights
LABELS = {
    "weights.0": "layer 0",
    "weights.1": "layer 1",
    "self_weights": "self-attention",
    "cross_weights": "cross-attention",
    "inducing_weights": "4 points attend to words",
    "assignments": "5 slots divide the words",
}
# Labels of rows or columns that are not words.
NOT_WORDS = {
    "LinformerAttention": "6 mixtures of words",
    "PersistentMemoryAttention": "words, then 6 memory slots",
    "SpatialReductionAttention": "6 patches of the grid",
    "PerceiverAttention": "5 latents attend to words",
    "AttentionPooling": "5 probes attend to words",
    "PoolingByAttention": "5 seeds attend to words",
    "InducedSetAttentionBlock": "words attend to 4 points",
    "SlotAttention": "5 slots attend to words",
    "HierarchicalAttentionPooling": "one learned query",
}


class Map(NamedTuple):
    """One matrix of a mechanism.

    Attributes:
        label: label that distinguishes several matrices of a mechanism; may be empty.
        kind: kind of matrix: `weights`, `effective` or `scores`.
        matrix: matrix `(query, key)`.
    """

    label: str
    kind: str
    matrix: np.ndarray


def maps(
    mechanism: Mechanism, given: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> list[Map]:
    """The matrices of one call, for the first element of the batch and the first head.

    Args:
        mechanism: the mechanism that was called.
        given: inputs of the call.
        outputs: outputs of the call by field.
    """
    if not mechanism.weights:
        output = outputs["output"][0]
        if output.shape[0] == output.shape[1]:
            return [Map("scores", "scores", output)]
        added = output - given["x"][0]  # query embed
        return [Map("similarity of the added vectors", "scores", added @ added.T)]
    if "height_weights" in outputs:
        return [
            Map("", "weights", _lines(outputs["height_weights"][0, :, 0], outputs["width_weights"][0, :, 0]))
        ]
    if mechanism.name.endswith("WindowAttention") and outputs["weights"].ndim == 5:
        shift = int(mechanism.module.arguments.get("shift", 0))
        return [Map("", "weights", _windows(outputs["weights"][0, :, 0], shift))]
    kind = "effective" if mechanism.family in EFFECTIVE or mechanism.name == "NystromAttention" else "weights"
    found = {
        name: x[0] for name, x in outputs.items() if name.partition(".")[0].endswith(("weights", "ments"))
    }
    return [
        Map(
            LABELS.get(name) or NOT_WORDS.get(mechanism.name, ""), kind, x if x.ndim == 2 else x[0]
        )  # the first head
        for name, x in found.items()
    ]


def _windows(weights: np.ndarray, shift: int) -> np.ndarray:
    """Weights between all cells of the grid, from weights within windows, `(windows, area, area)`."""
    side = round(weights.shape[-1] ** 0.5)
    places = np.roll(np.arange(GRID[0] * GRID[1]).reshape(GRID), (-shift, -shift), (0, 1))
    of_windows = rearrange(places, "(down y) (across x) -> (down across) (y x)", y=side, x=side)
    everything = np.zeros((places.size, places.size))
    for seen, window in zip(of_windows, weights, strict=True):
        everything[np.ix_(seen, seen)] = window
    return everything


def _lines(height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Weights between all cells of the grid, from weights along columns and along rows."""
    everything = np.zeros((*GRID, *GRID))
    for column, weights in enumerate(height):
        everything[:, column, :, column] += weights
    for row, weights in enumerate(width):
        everything[row, :, row, :] += weights
    return everything.reshape(GRID[0] * GRID[1], -1)
