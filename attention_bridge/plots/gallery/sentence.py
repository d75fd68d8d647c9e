"""The one input: a tongue-twister of 24 words, of which some come again.

A word is five numbers: three say which word it is, two where it stands, as a point that moves slowly along a circle.
Equal words are alike wherever they stand, and neighbours a little more so. A mechanism of any width gets the same
five numbers, spread over as many features as it wants.
"""

from __future__ import annotations

from functools import cache

import numpy as np

PHRASES = (
    "she sells sea shells by the sea shore",
    "the shells she sells are sea shells",
    "so if she sells shells on the sea shore",
)
WORDS = tuple(" ".join(PHRASES).split())
DOCUMENTS = np.repeat(np.arange(len(PHRASES)), [len(phrase.split()) for phrase in PHRASES])
GRID = (4, 6)  # the words in rows, for what attends over images
VOCABULARY = tuple(dict.fromkeys(WORDS))
# Whom the words of another sequence are: the same ones, the last phrase first, as a translation might have them.
ORDER = np.concatenate([np.flatnonzero(number == DOCUMENTS) for number in (2, 0, 1)])

# The four words that come most often are the corners of a tetrahedron: as far apart as can be.
CORNERS = {"she": (1, 1, 1), "sells": (1, -1, -1), "sea": (-1, 1, -1), "shells": (-1, -1, 1)}
SMALL_WORDS = 0.7  # how much of the others is content
TURN = 0.9 * np.pi  # of the circle, from the first word to the last
PLACE = 0.9  # how much of every word is place
GAIN, NOISE = 2.4, 0.15  # scores of equal words are about 4 above those of others


def numbers() -> np.ndarray:
    """The word numbers, `(24,)`."""
    return np.array([VOCABULARY.index(word) for word in WORDS], np.int32)


@cache
def latents() -> np.ndarray:
    """The words, `(24, 5)`."""
    rng = np.random.default_rng(3)
    others = {word: rng.standard_normal(3) for word in VOCABULARY if word not in CORNERS}
    content = {
        **{word: np.array(corner) / 3**0.5 for word, corner in CORNERS.items()},
        **{word: SMALL_WORDS * vector / np.linalg.norm(vector) for word, vector in others.items()},
    }
    angle = np.linspace(0, TURN, len(WORDS))
    place = PLACE * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.concatenate([np.stack([content[word] for word in WORDS]), place], axis=-1)


@cache
def spread(width: int) -> np.ndarray:
    """How five numbers become `width` features, `(5, width)`: orthogonal, where there is room for five."""
    columns = np.linalg.qr(np.random.default_rng(width).standard_normal((max(width, 5), 5)))[0]
    return columns[:width].T


def features(width: int) -> np.ndarray:
    """The words as `(24, width)`, with a mean square of about 1."""
    return latents() @ spread(width) * (width / 2) ** 0.5


def reader(out_width: int, in_width: int) -> np.ndarray:
    """A weight matrix `(out, in)` that reads the same from words of any width, and a little else.

    Matrices of queries and keys are then alike, and words look at words that are like them.
    """
    turns = np.random.default_rng(out_width).standard_normal((-(-out_width // 5), 5, 5))
    rows = np.linalg.qr(turns)[0].reshape(-1, 5)[:out_width]  # every five of them keep all angles
    noise = np.random.default_rng((out_width, in_width)).standard_normal((out_width, in_width))
    return (GAIN * rows @ spread(in_width) + NOISE * noise) / (in_width / 2) ** 0.5
