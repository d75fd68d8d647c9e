"""The input of the gallery: a tongue-twister of 24 words, some of them repeated.

A word is a vector of five numbers: three encode the word and two its position, as a point that moves along a circle.
Equal words are similar at any position, and neighbouring ones a little more so. A mechanism of any width gets the same
five numbers, projected to its number of features.
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
GRID = (4, 6)  # the words in rows, for mechanisms that attend over images
VOCABULARY = tuple(dict.fromkeys(WORDS))
# Order of the words in the other sequence of cross-attention: the last phrase first, as in a translation.
ORDER = np.concatenate([np.flatnonzero(number == DOCUMENTS) for number in (2, 0, 1)])

# The four most frequent words are the corners of a tetrahedron, as far apart as possible.
CORNERS = {"she": (1, 1, 1), "sells": (1, -1, -1), "sea": (-1, 1, -1), "shells": (-1, -1, 1)}
SMALL_WORDS = 0.7  # norm of the content of the other words
TURN = 0.9 * np.pi  # angle along the circle from the first word to the last
PLACE = 0.9  # norm of the position of every word
GAIN, NOISE = 2.4, 0.15  # equal words have scores about 4 higher than unequal ones


def numbers() -> np.ndarray:
    """Token ids of the words, `(24,)`."""
    return np.array([VOCABULARY.index(word) for word in WORDS], np.int32)


@cache
def latents() -> np.ndarray:
    """Vectors of the words, `(24, 5)`: content, then position."""
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
    """Projection from five numbers to `width` features, `(5, width)`; rows are orthogonal if width is at least 5."""
    columns = np.linalg.qr(np.random.default_rng(width).standard_normal((max(width, 5), 5)))[0]
    return columns[:width].T


def features(width: int) -> np.ndarray:
    """Features of the words, `(24, width)`, with a mean square of about 1."""
    return latents() @ spread(width) * (width / 2) ** 0.5


def reader(out_width: int, in_width: int) -> np.ndarray:
    """Weight matrix `(out, in)` that projects the words' five numbers equally at any width, plus a little noise.

    Query and key projections are then similar, so words attend to similar words.
    """
    turns = np.random.default_rng(out_width).standard_normal((-(-out_width // 5), 5, 5))
    rows = np.linalg.qr(turns)[0].reshape(-1, 5)[:out_width]  # each block of five rows preserves all angles
    noise = np.random.default_rng((out_width, in_width)).standard_normal((out_width, in_width))
    return (GAIN * rows @ spread(in_width) + NOISE * noise) / (in_width / 2) ** 0.5
