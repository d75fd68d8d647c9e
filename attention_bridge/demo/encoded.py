"""What each of the three models gives back."""

from typing import NamedTuple

import numpy as np


class Encoded(NamedTuple):
    """Sentences, encoded.

    Attributes:
        embeddings: `(sentence, embed)`, each of unit length.
        weights: one `(sentence, heads, query, key)` a layer; rows of padding have no meaning.
    """

    embeddings: np.ndarray
    weights: tuple[np.ndarray, ...]
