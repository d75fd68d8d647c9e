"""Result type of the encoder in PyTorch, in JAX and in sentence-transformers."""

from typing import NamedTuple

import numpy as np


class Encoded(NamedTuple):
    """Embeddings and attention weights of encoded sentences.

    Attributes:
        embeddings: embeddings of unit length, `(sentence, embed)`.
        weights: attention weights per layer, `(sentence, heads, query, key)`; the rows of padding are undefined.
    """

    embeddings: np.ndarray
    weights: tuple[np.ndarray, ...]
