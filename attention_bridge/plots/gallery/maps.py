"""What a mechanism returned, as matrices: a row for each query, a column for each key.

| kind        | what a cell says                                                                              |
|-------------|-----------------------------------------------------------------------------------------------|
| `weights`   | how much of key j's value query i takes, of its first head                                    |
| `effective` | the same of a mechanism that keeps no such table: its memory reads and writes as if it had it |
| `scores`    | how alike i and j are to what only scores, or only adds to a sequence                         |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from einops import rearrange

from attention_bridge.catalogue import Mechanism
from attention_bridge.plots.gallery.sentence import GRID

EFFECTIVE = ("linear",)  # families whose weights are never made on the way to their output
LABELS = {
    "weights.0": "layer 0",
    "weights.1": "layer 1",
    "self_weights": "self-attention",
    "cross_weights": "cross-attention",
    "inducing_weights": "4 points look at words",
    "assignments": "5 slots share out the words",
}
# What stands at the rows or the columns, where it is not words.
NOT_WORDS = {
    "LinformerAttention": "6 mixtures of words",
    "PersistentMemoryAttention": "words, then 6 memories",
    "SpatialReductionAttention": "6 patches of the grid",
    "PerceiverAttention": "5 latents look at words",
    "AttentionPooling": "5 probes look at words",
    "PoolingByAttention": "5 seeds look at words",
    "InducedSetAttentionBlock": "words look at 4 points",
    "SlotAttention": "5 slots look at words",
    "HierarchicalAttentionPooling": "one query, which is learned",
}


class Map(NamedTuple):
    """One matrix of a mechanism.

    Attributes:
        label: which of its matrices it is, where it has several.
        kind: what its numbers say.
        matrix: `(query, key)`.
    """

    label: str
    kind: str
    matrix: np.ndarray


def maps(
    mechanism: Mechanism, given: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> list[Map]:
    """The matrices of one call, of the first element of its batch and the first head.

    Args:
        mechanism: what was called.
        given: its inputs.
        outputs: what it returned, by field.
    """
    if not mechanism.weights:
        output = outputs["output"][0]
        if output.shape[0] == output.shape[1]:
            return [Map("scores", "scores", output)]
        added = output - given["x"][0]  # query embed
        return [Map("likeness of what it adds", "scores", added @ added.T)]
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
    """Weights inside of windows, `(windows, area, area)`, between all places of the grid."""
    side = round(weights.shape[-1] ** 0.5)
    places = np.roll(np.arange(GRID[0] * GRID[1]).reshape(GRID), (-shift, -shift), (0, 1))
    of_windows = rearrange(places, "(down y) (across x) -> (down across) (y x)", y=side, x=side)
    everything = np.zeros((places.size, places.size))
    for seen, window in zip(of_windows, weights, strict=True):
        everything[np.ix_(seen, seen)] = window
    return everything


def _lines(height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Weights along columns, `(width, height, height)`, and along rows, between all places of the grid."""
    everything = np.zeros((*GRID, *GRID))
    for column, weights in enumerate(height):
        everything[:, column, :, column] += weights
    for row, weights in enumerate(width):
        everything[row, :, row, :] += weights
    return everything.reshape(GRID[0] * GRID[1], -1)
