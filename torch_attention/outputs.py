"""Named tuples that attention modules and models return, the same with and without attention weights."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

NO_LOGITS = "this model has no output head and so no logits; its result has last_hidden_state"


class AttentionOutput(NamedTuple):
    """Result of attention: `output, weights = attn(x)`.

    Attributes:
        output: `(batch, query, dim)`.
        weights: attention weights, float32 or wider, `(batch, heads, query, key)`; no heads in single-head classes.
    """

    output: Float[Tensor, "batch query dim"]
    weights: Float[Tensor, "batch ..."] | None


class CachedOutput(NamedTuple):
    """Result of attention with a KV cache: `output, cache, weights = attn(x, cache=cache)`.

    Attributes:
        output: output for the new tokens, `(batch, new, dim)`.
        cache: KV cache with all tokens so far; pass it to the next call.
        weights: `(batch, heads, new, slots)`, before dropout, in at least float32; None with `need_weights=False`.
    """

    output: Float[Tensor, "batch new dim"]
    cache: Any
    weights: Float[Tensor, "batch heads new slots"] | None


class RecurrentOutput(NamedTuple):
    """Result of a recurrent layer: `output, state, weights = layer(x, state)`.

    Attributes:
        output: `(batch, length, dim)`.
        state: recurrent state after all tokens so far; pass it to the next call.
        weights: equivalent attention matrix, from values to outputs, `(batch, heads, length, length)`, or None.
    """

    output: Float[Tensor, "batch length dim"]
    state: Any
    weights: Float[Tensor, "batch heads length length"] | None


class DecoderOutput(NamedTuple):
    """Result of a decoder block: `output, self_weights, cross_weights = block(x, memory)`.

    Attributes:
        output: `(batch, query, dim)`.
        self_weights: self-attention weights, `(batch, heads, query, query)`; None with `need_weights=False`.
        cross_weights: cross-attention weights, `(batch, heads, query, key)`; None with `need_weights=False`.
    """

    output: Float[Tensor, "batch query dim"]
    self_weights: Float[Tensor, "batch heads query query"] | None
    cross_weights: Float[Tensor, "batch heads query key"] | None


class CachedDecoderOutput(NamedTuple):
    """Decoder block with a KV cache: `output, cache, self_weights, cross_weights = block(x, memory, cache=cache)`.

    Attributes:
        output: output for the new tokens, `(batch, new, dim)`.
        cache: KV cache with all tokens so far; pass it to the next call.
        self_weights: self-attention weights, `(batch, heads, new, slots)`; None with `need_weights=False`.
        cross_weights: cross-attention weights, `(batch, heads, new, key)`; None with `need_weights=False`.
    """

    output: Float[Tensor, "batch new dim"]
    cache: Any
    self_weights: Float[Tensor, "batch heads new slots"] | None
    cross_weights: Float[Tensor, "batch heads new key"] | None


class EncoderOutput(NamedTuple):
    """Result of an encoder.

    Attributes:
        last_hidden_state: output of the last layer, `(batch, length, embed)`; also available as `output`.
        pooled: pooled output, `(batch, embed)`; None without a pooler.
        attentions: attention weights of each layer, `(batch, heads, length, length)`, or None; also `weights`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    last_hidden_state: Float[Tensor, "batch length embed"]
    pooled: Float[Tensor, "batch embed"] | None
    attentions: tuple[Float[Tensor, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None = None

    @property
    def output(self) -> Float[Tensor, "batch length embed"]:
        """The same as `last_hidden_state`."""
        return self.last_hidden_state

    @property
    def weights(self) -> tuple[Float[Tensor, "batch heads length length"], ...] | None:
        """The same as `attentions`."""
        return self.attentions

    @property
    def logits(self) -> Any:
        """Raise AttributeError: there is no output head."""
        raise AttributeError(NO_LOGITS)


class HierarchyOutput(NamedTuple):
    """Result of a hierarchical vision model, whose positions are in row-major order.

    Attributes:
        last_hidden_state: output of the last stage, `(batch, area, embed)`; also available as `output`.
        pooled: pooled output, `(batch, embed)`; None without a pooling.
        attentions: attention weights of each layer, `(batch, ..., query, key)`, or None; also `weights`.
        hidden_states: the input of the first layer of each stage, then the output of the last layer, each
            `(batch, height, width, embed)`; None unless asked for.
        feature_maps: output of each stage, `(batch, height, width, embed)`.
    """

    last_hidden_state: Float[Tensor, "batch area embed"]
    pooled: Float[Tensor, "batch embed"] | None
    attentions: tuple[Float[Tensor, "batch ..."], ...] | None
    hidden_states: tuple[Float[Tensor, "batch height width embed"], ...] | None
    feature_maps: tuple[Float[Tensor, "batch height width embed"], ...]

    @property
    def output(self) -> Float[Tensor, "batch area embed"]:
        """The same as `last_hidden_state`."""
        return self.last_hidden_state

    @property
    def weights(self) -> tuple[Float[Tensor, "batch ..."], ...] | None:
        """The same as `attentions`."""
        return self.attentions

    @property
    def logits(self) -> Any:
        """Raise AttributeError: there is no output head."""
        raise AttributeError(NO_LOGITS)


class HiddenOutput(NamedTuple):
    """Result of a language model without its head.

    Attributes:
        last_hidden_state: normalised output of the last layer, `(batch, length, embed)`; also available as `output`.
        caches, attentions, hidden_states: as in `LanguageOutput`.
    """

    last_hidden_state: Float[Tensor, "batch length embed"]
    caches: tuple[Any, ...] | None
    attentions: tuple[Float[Tensor, "batch heads length slots"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None = None

    @property
    def output(self) -> Float[Tensor, "batch length embed"]:
        """The same as `last_hidden_state`."""
        return self.last_hidden_state

    @property
    def logits(self) -> Any:
        """Raise AttributeError: there is no output head."""
        raise AttributeError(NO_LOGITS)


class LanguageOutput(NamedTuple):
    """Result of a language model.

    Attributes:
        logits: `(batch, length, vocab_size)`; also available as `output`.
        caches: KV cache or recurrent state of each layer; pass them to the next call. None for a call without caches.
        attentions: attention weights of each layer, `(batch, heads, length, slots)`, or None; also `weights`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    logits: Float[Tensor, "batch length vocab"]
    caches: tuple[Any, ...] | None
    attentions: tuple[Float[Tensor, "batch heads length slots"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None = None

    @property
    def output(self) -> Float[Tensor, "batch length vocab"]:
        """The same as `logits`."""
        return self.logits

    @property
    def weights(self) -> tuple[Float[Tensor, "batch heads length slots"], ...] | None:
        """The same as `attentions`."""
        return self.attentions


class SequenceOutput(NamedTuple):
    """Encoder-decoder result: `logits, caches, encoder_weights, self_weights, cross_weights = model(source, target)`.

    Attributes:
        logits: `(batch, target, vocab_size)`; also available as `output`.
        caches: KV cache of each decoder layer; pass them to the next call. None for a call without caches.
        encoder_weights: weights of each encoder layer, `(batch, heads, source, source)`; None if not requested.
        self_weights: self-attention weights of each decoder layer, `(batch, heads, target, slots)`, or None.
        cross_weights: cross-attention weights of each decoder layer, `(batch, heads, target, source)`, or None.
    """

    logits: Float[Tensor, "batch target vocab"]
    caches: tuple[Any, ...] | None
    encoder_weights: tuple[Float[Tensor, "batch heads source source"], ...] | None
    self_weights: tuple[Float[Tensor, "batch heads target slots"], ...] | None
    cross_weights: tuple[Float[Tensor, "batch heads target source"], ...] | None

    @property
    def output(self) -> Float[Tensor, "batch target vocab"]:
        """The same as `logits`."""
        return self.logits

    @property
    def attentions(self) -> tuple[Float[Tensor, "batch heads target slots"], ...] | None:
        """The same as `self_weights`."""
        return self.self_weights


class ContrastiveOutput(NamedTuple):
    """Result of a contrastive text-image model: `scores, text, image = model(tokens, images)`.

    Attributes:
        scores: similarity of each text to each image, `(texts, images)`.
        text: normalised text embeddings, `(texts, features)`.
        image: normalised image embeddings, `(images, features)`.
    """

    scores: Float[Tensor, "texts images"]
    text: Float[Tensor, "texts features"]
    image: Float[Tensor, "images features"]


def all_weights(
    layers: Iterable[Float[Tensor, "batch ..."] | None],
) -> tuple[Float[Tensor, "batch ..."], ...] | None:
    """Tuple of the attention weights of every layer; None if there are none."""
    return tuple(weights for weights in layers if weights is not None) or None


def attention_output(
    output: Float[Tensor, "batch query dim"],
    weights: Float[Tensor, "batch heads query key"] | None,
    cache: Any,
) -> AttentionOutput | CachedOutput:
    """Result of an attention call: a `CachedOutput` with a cache, else an `AttentionOutput`."""
    return AttentionOutput(output, weights) if cache is None else CachedOutput(output, cache, weights)


def decoder_output(
    output: Float[Tensor, "batch query dim"],
    read: AttentionOutput | CachedOutput,
    cross_weights: Float[Tensor, "batch heads query key"] | None,
) -> DecoderOutput | CachedDecoderOutput:
    """Result of a decoder block, with the KV cache of its self-attention if there is one."""
    if isinstance(read, CachedOutput):
        return CachedDecoderOutput(output, read.cache, read.weights, cross_weights)
    return DecoderOutput(output, read.weights, cross_weights)
