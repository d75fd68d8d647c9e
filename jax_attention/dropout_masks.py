"""Explicit dropout masks for modules with several dropout layers."""

from typing import NamedTuple

from jax import Array
from jaxtyping import Bool


class DecoderKeep(NamedTuple):
    """Boolean dropout masks of `EncoderDecoderAttention`, True keeps; masks that are None are sampled in training.

    Attributes:
        self_weights: `(batch, heads, query, query)`.
        self_output: `(batch, query, embed)`.
        cross_weights: `(batch, heads, query, key)`.
        cross_output: `(batch, query, embed)`.
        ffn_hidden: `(batch, query, ffn)`.
        ffn_output: `(batch, query, embed)`.
    """

    self_weights: Bool[Array, "batch heads query query"] | None = None
    self_output: Bool[Array, "batch query embed"] | None = None
    cross_weights: Bool[Array, "batch heads query key"] | None = None
    cross_output: Bool[Array, "batch query embed"] | None = None
    ffn_hidden: Bool[Array, "batch query ffn"] | None = None
    ffn_output: Bool[Array, "batch query embed"] | None = None


class LayerKeep(NamedTuple):
    """Boolean dropout masks of a layer of a model, True keeps; masks that are None are sampled in training.

    Attributes:
        weights: `(batch, heads, length, length)`.
        attention_output: `(batch, length, embed)`.
        ffn_output: `(batch, length, embed)`.
    """

    weights: Bool[Array, "batch heads length length"] | None = None
    attention_output: Bool[Array, "batch length embed"] | None = None
    ffn_output: Bool[Array, "batch length embed"] | None = None


class ModelKeep(NamedTuple):
    """Boolean dropout masks of an `Encoder` or a `Decoder`, True keeps; masks that are None are sampled in training.

    Attributes:
        embeddings: `(batch, length, embed)`.
        layers: one `LayerKeep` per layer.
    """

    embeddings: Bool[Array, "batch length embed"] | None = None
    layers: tuple[LayerKeep, ...] | None = None
