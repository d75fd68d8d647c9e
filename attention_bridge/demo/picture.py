"""The picture of the demonstration: the most informative attention map from both mirrors."""

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
SHORTEST, LONGEST = 8, 20  # lengths, in tokens, that suit a picture
MOST = 32  # most tokens that are legible


class Place(NamedTuple):
    """Sentence, layer and head of an attention map, counted from 0."""

    sentence: int
    layer: int
    head: int


def choose(weights: Sequence[np.ndarray], words: Sequence[Sequence[str]]) -> Place:
    """Choose the map with the largest attention between different, distant words, spread over several keys.

    Many heads attend to [CLS] and [SEP], to the word itself or to its neighbour; these are not informative.
    """
    scores = {
        Place(sentence, layer, head): score
        for sentence, n in _candidates(words)
        for layer, w in enumerate(weights)
        for head, score in enumerate(_scores(w[sentence, :, :n, :n], words[sentence]))
    }
    return max(scores, key=scores.__getitem__)


def draw(torch_half: Encoded, jax_half: Encoded, batch: Batch, texts: Sequence[str], path: Path) -> Place:
    """Draw the chosen map from both mirrors and write the picture to `path`.

    Raises:
        InputError: the file cannot be written.
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
        subtitle="Each row sums to 1: the attention of the word on the left over the words below. "
        "Layers and heads count from 0.",
    )
    try:
        plots.save(figure, path)
    except CheckpointError as error:
        raise InputError(f"--figure {error}") from error
    return place


def _candidates(words: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Index and length of the sentences of suitable length, or of the sentence nearest to it."""
    lengths = list(enumerate(map(len, words)))
    good = [(i, n) for i, n in lengths if SHORTEST <= n <= LONGEST]
    return good or [min(lengths, key=lambda pair: abs(pair[1] - SHORTEST))]


def _scores(weights: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Score of each head: the largest weight on each word from another, distant word, averaged over words."""
    names, position = np.array(words), np.arange(len(words))
    is_word = ~np.isin(names, SPECIAL)
    other = (names[:, None] != names) & (np.abs(position[:, None] - position) > 1)
    looks = np.where(other & is_word[:, None] & is_word, weights, 0.0)  # heads query key
    return looks.max(axis=-2).mean(axis=-1)


def _shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
