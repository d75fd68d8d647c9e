"""Which of the many attention maps is worth a look, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attention_bridge import plots
from attention_bridge.demo.encoded import Encoded
from attention_bridge.demo.tokens import Batch
from attention_bridge.errors import CheckpointError, InputError

SPECIAL = ("[CLS]", "[SEP]")
SHORTEST, LONGEST = 8, 20  # tokens that make a good picture
MOST = 32  # tokens that are still legible


class Place(NamedTuple):
    """One attention map among all; numbers count from 0, as in the names of the parameters."""

    sentence: int
    layer: int
    head: int


def choose(weights: Sequence[np.ndarray], words: Sequence[Sequence[str]]) -> Place:
    """The map in which words look hardest at other words, and not all at the same one.

    Heads that look at [CLS] and [SEP], at the word itself or at the one beside it are many and say little.
    """
    scores = {
        Place(sentence, layer, head): score
        for sentence, n in _candidates(words)
        for layer, w in enumerate(weights)
        for head, score in enumerate(_scores(w[sentence, :, :n, :n], words[sentence]))
    }
    return max(scores, key=scores.__getitem__)


def draw(torch_half: Encoded, jax_half: Encoded, batch: Batch, texts: Sequence[str], path: Path) -> Place:
    """Write the picture of the chosen map to `path`.

    Raises:
        InputError: it cannot be written.
    """
    place = choose(torch_half.weights, batch.words)
    words = batch.words[place.sentence][:MOST]
    shown = slice(len(words))
    torch_map, jax_map = (
        half.weights[place.layer][place.sentence, place.head, shown, shown] for half in (torch_half, jax_half)
    )
    figure = plots.comparison(
        torch_map,
        jax_map,
        words,
        title=f"Layer {place.layer}, head {place.head}: {_shorten(texts[place.sentence])}",
        subtitle="Each row sums to 1: how the word on the left shares out its attention among the words below. "
        "Layers and heads count from 0.",
    )
    try:
        plots.save(figure, path)
    except CheckpointError as error:
        raise InputError(f"--figure {error}") from error
    return place


def _candidates(words: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Number and length of the sentences of a good length, or of the one that comes nearest."""
    lengths = list(enumerate(map(len, words)))
    good = [(i, n) for i, n in lengths if SHORTEST <= n <= LONGEST]
    return good or [min(lengths, key=lambda pair: abs(pair[1] - SHORTEST))]


def _scores(weights: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """For each head: the hardest look that a word gets from another, distant word; the mean over the words."""
    names, position = np.array(words), np.arange(len(words))
    is_word = ~np.isin(names, SPECIAL)
    other = (names[:, None] != names) & (np.abs(position[:, None] - position) > 1)
    looks = np.where(other & is_word[:, None] & is_word, weights, 0.0)  # heads query key
    return looks.max(axis=-2).mean(axis=-1)


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
