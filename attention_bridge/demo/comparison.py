"""Differences between the mirrors and the reference, and the first layer where they diverge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from attention_bridge.demo.encoded import Encoded
from attention_bridge.parity.measure import CONSTANT, UNIT_ROUNDOFF

EMBEDDING_TOLERANCE = 2e-6


class Row(NamedTuple):
    """Largest absolute differences in one layer's attention weights, or in the embeddings.

    Attributes:
        name: `layers.N attention` or `embeddings`.
        torch_jax: difference between the two mirrors.
        torch_reference: difference between the PyTorch mirror and the reference.
        jax_reference: difference between the JAX mirror and the reference.
        tolerance: largest difference that rounding explains.
    """

    name: str
    torch_jax: float
    torch_reference: float
    jax_reference: float
    tolerance: float

    @property
    def differences(self) -> tuple[float, float, float]:
        """All three differences."""
        return self.torch_jax, self.torch_reference, self.jax_reference

    @property
    def equal(self) -> bool:
        """Whether all three differences are within the tolerance; NaN is not."""
        return all(difference <= self.tolerance for difference in self.differences)


class Neighbour(NamedTuple):
    """Index of a sentence and its cosine similarity to the query."""

    sentence: int
    score: float


def compare(
    torch_half: Encoded, jax_half: Encoded, reference: Encoded, real: np.ndarray, ffn_dim: int
) -> list[Row]:
    """Compute one row per layer for its attention weights, in order, and one for the embeddings.

    Args:
        torch_half: results of the PyTorch mirror.
        jax_half: results of the JAX mirror.
        reference: results of sentence-transformers.
        real: `(sentence, position)`, False for padding, whose rows are not compared.
        ffn_dim: hidden size of the feed-forward network, the longest sum in a layer.
    """
    halves = (torch_half, jax_half, reference)
    rows = []
    for layer, weights in enumerate(zip(*(half.weights for half in halves), strict=True)):
        of_tokens = [np.moveaxis(w, 1, 2)[real] for w in weights]  # token heads key
        rows.append(_row(f"layers.{layer} attention", of_tokens, weight_tolerance(layer + 1, ffn_dim)))
    return [*rows, _row("embeddings", [half.embeddings for half in halves], EMBEDDING_TOLERANCE)]


def weight_tolerance(layers: int, ffn_dim: int) -> float:
    """Bound c u √n per layer so far: the n roundings u = 2⁻²⁴ of its longest sum grow like a random walk."""
    return CONSTANT * UNIT_ROUNDOFF["float32"] * ffn_dim**0.5 * layers


def divergence(rows: Sequence[Row]) -> str | None:
    """Describe the first divergence and the model that differs from the others; None if all are equal."""
    row = next((row for row in rows if not row.equal), None)
    if row is None:
        return None
    torch_jax, torch_reference, jax_reference = (d <= row.tolerance for d in row.differences)
    if torch_reference and not jax_reference:
        who = "the JAX mirror diverges from PyTorch and from the reference"
    elif jax_reference and not torch_reference:
        who = "the PyTorch mirror diverges from JAX and from the reference"
    elif torch_jax:
        who = "both mirrors agree, but diverge from the reference"
    else:
        who = "PyTorch, JAX and the reference diverge"
    largest = max(row.differences, key=lambda d: (d != d, d))  # NaN counts as the largest
    return f"{who} at {row.name}: {largest:.1e} apart, at most {row.tolerance:.1e} expected"


def neighbours(embeddings: np.ndarray, query: int) -> list[Neighbour]:
    """All other sentences, most similar first."""
    scores = embeddings @ embeddings[query]
    order = np.argsort(-scores, kind="stable")
    return [Neighbour(int(i), float(scores[i])) for i in order if i != query]


def same_neighbours(first: Sequence[Neighbour], second: Sequence[Neighbour]) -> bool:
    """Whether two lists have the same order and scores; sentences with equal scores may be exchanged."""
    tolerance = 2 * EMBEDDING_TOLERANCE  # a score is a product of two embeddings
    scores = {neighbour.sentence: neighbour.score for neighbour in first}
    return len(first) == len(second) and all(
        abs(a.score - b.score) <= tolerance and abs(a.score - scores[b.sentence]) <= tolerance
        for a, b in zip(first, second, strict=True)
    )


def _row(name: str, arrays: Sequence[np.ndarray], tolerance: float) -> Row:
    torch_half, jax_half, reference = arrays
    return Row(
        name,
        torch_jax=float(np.abs(torch_half - jax_half).max()),
        torch_reference=float(np.abs(torch_half - reference).max()),
        jax_reference=float(np.abs(jax_half - reference).max()),
        tolerance=tolerance,
    )
