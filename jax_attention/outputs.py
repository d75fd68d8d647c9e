"""What attention modules return: always the same named tuple, whether or not weights were asked for."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from jax import Array
from jaxtyping import Float


class AttentionOutput(NamedTuple):
    """`output, weights = attn(x)`.

    Attributes:
        output: `(batch, query, dim)`.
        weights: `(batch, heads, query, key)`, or `(batch, query, key)` from a class with a single head;
            before dropout, in at least float32. None with `need_weights=False`.
    """

    output: Float[Array, "batch query dim"]
    weights: Float[Array, "batch ..."] | None


class CachedOutput(NamedTuple):
    """`output, cache, weights = attn(x, cache=cache)`.

    Attributes:
        output: `(batch, new, dim)`, for the new tokens.
        cache: KV cache with all tokens so far; give it to the next call.
        weights: `(batch, heads, new, slots)`; before dropout, in at least float32. None with `need_weights=False`.
    """

    output: Float[Array, "batch new dim"]
    cache: Any
    weights: Float[Array, "batch heads new slots"] | None


class RecurrentOutput(NamedTuple):
    """`output, state, weights = layer(x, state)`.

    Attributes:
        output: `(batch, length, dim)`.
        state: recurrent state after all tokens so far; give it to the next call.
        weights: `(batch, heads, length, length)`, the matrix that maps this call's values to its outputs, as if
            it had been attention; in at least float32. None unless it was asked for.
    """

    output: Float[Array, "batch length dim"]
    state: Any
    weights: Float[Array, "batch heads length length"] | None


class DecoderOutput(NamedTuple):
    """`output, self_weights, cross_weights = block(x, memory)`.

    Attributes:
        output: `(batch, query, dim)`.
        self_weights: `(batch, heads, query, query)`, or None with `need_weights=False`.
        cross_weights: `(batch, heads, query, key)`, or None with `need_weights=False`.
    """

    output: Float[Array, "batch query dim"]
    self_weights: Float[Array, "batch heads query query"] | None
    cross_weights: Float[Array, "batch heads query key"] | None


class CachedDecoderOutput(NamedTuple):
    """`output, cache, self_weights, cross_weights = block(x, memory, cache=cache)`.

    Attributes:
        output: `(batch, new, dim)`, for the new positions.
        cache: KV cache with all positions so far; give it to the next call.
        self_weights: `(batch, heads, new, slots)`, or None with `need_weights=False`.
        cross_weights: `(batch, heads, new, key)`, or None with `need_weights=False`.
    """

    output: Float[Array, "batch new dim"]
    cache: Any
    self_weights: Float[Array, "batch heads new slots"] | None
    cross_weights: Float[Array, "batch heads new key"] | None


class EncoderOutput(NamedTuple):
    """What an encoder returns.

    Attributes:
        last_hidden_state: `(batch, length, embed)`; also called `output`.
        pooled: `(batch, embed)`, or None without a pooler.
        attentions: one `(batch, heads, length, length)` a layer, or None with `need_weights=False`; also `weights`.
        hidden_states: what each layer was given, then what the last one returned; None unless asked for.
    """

    last_hidden_state: Float[Array, "batch length embed"]
    pooled: Float[Array, "batch embed"] | None
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None = None

    @property
    def output(self) -> Float[Array, "batch length embed"]:
        """The same as `last_hidden_state`."""
        return self.last_hidden_state

    @property
    def weights(self) -> tuple[Float[Array, "batch heads length length"], ...] | None:
        """The same as `attentions`."""
        return self.attentions


class HiddenOutput(NamedTuple):
    """What the layers of a language model return, before it is scored.

    Attributes:
        last_hidden_state: `(batch, length, embed)`, normalised; also called `output`.
        caches, attentions, hidden_states: as in `LanguageOutput`.
    """

    last_hidden_state: Float[Array, "batch length embed"]
    caches: tuple[Any, ...] | None
    attentions: tuple[Float[Array, "batch heads length slots"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None = None

    @property
    def output(self) -> Float[Array, "batch length embed"]:
        """The same as `last_hidden_state`."""
        return self.last_hidden_state


class LanguageOutput(NamedTuple):
    """What a language model returns.

    Attributes:
        logits: `(batch, length, vocab_size)`; also called `output`.
        caches: what each layer remembers; give them to the next call. None if there were none.
        attentions: one `(batch, heads, length, slots)` a layer, or None with `need_weights=False`; also `weights`.
        hidden_states: what each layer was given, then what the last one returned; None unless asked for.
    """

    logits: Float[Array, "batch length vocab"]
    caches: tuple[Any, ...] | None
    attentions: tuple[Float[Array, "batch heads length slots"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None = None

    @property
    def output(self) -> Float[Array, "batch length vocab"]:
        """The same as `logits`."""
        return self.logits

    @property
    def weights(self) -> tuple[Float[Array, "batch heads length slots"], ...] | None:
        """The same as `attentions`."""
        return self.attentions


class SequenceOutput(NamedTuple):
    """`logits, caches, encoder_weights, self_weights, cross_weights = model(source, target)`.

    Attributes:
        logits: `(batch, target, vocab_size)`; also called `output`.
        caches: what each layer of the decoder remembers; give them to the next call. None if there were none.
        encoder_weights: one `(batch, heads, source, source)` a layer, or None with `need_weights=False`.
        self_weights: one `(batch, heads, target, slots)` a layer, or None likewise.
        cross_weights: one `(batch, heads, target, source)` a layer, or None likewise.
    """

    logits: Float[Array, "batch target vocab"]
    caches: tuple[Any, ...] | None
    encoder_weights: tuple[Float[Array, "batch heads source source"], ...] | None
    self_weights: tuple[Float[Array, "batch heads target slots"], ...] | None
    cross_weights: tuple[Float[Array, "batch heads target source"], ...] | None

    @property
    def output(self) -> Float[Array, "batch target vocab"]:
        """The same as `logits`."""
        return self.logits

    @property
    def attentions(self) -> tuple[Float[Array, "batch heads target slots"], ...] | None:
        """The same as `self_weights`."""
        return self.self_weights


class ContrastiveOutput(NamedTuple):
    """`scores, text, image = model(tokens, images)`.

    Attributes:
        scores: how well each text fits each image, `(texts, images)`.
        text: a vector of length 1 for each text, `(texts, features)`.
        image: one for each image, `(images, features)`.
    """

    scores: Float[Array, "texts images"]
    text: Float[Array, "texts features"]
    image: Float[Array, "images features"]


class LogitsOutput(NamedTuple):
    """The result of a model that classifies.

    Attributes:
        logits: `(batch, classes)`, or `(batch, length, classes)` token by token; also called `output`.
        last_hidden_state: `(batch, length, embed)`, normalised where the backbone does so.
        attentions: one `(batch, heads, length, length)` a layer, or None with `need_weights=False`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    logits: Float[Array, "batch ... classes"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Array, "batch ... classes"]:
        """The same as `logits`."""
        return self.logits


class SpanOutput(NamedTuple):
    """The result of a model that marks a span of its input, as an answer to a question.

    Attributes:
        start_logits: score of each token as the first one of the span, `(batch, length)`.
        end_logits: score of each token as the last one, `(batch, length)`.
        last_hidden_state: `(batch, length, embed)`, normalised where the backbone does so.
        attentions: one `(batch, heads, length, length)` a layer, or None with `need_weights=False`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    start_logits: Float[Array, "batch length"]
    end_logits: Float[Array, "batch length"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None


class RewardOutput(NamedTuple):
    """The result of a reward model.

    Attributes:
        rewards: `(batch,)`; also called `output`.
        last_hidden_state: `(batch, length, embed)`, normalised where the backbone does so.
        attentions: one `(batch, heads, length, length)` a layer, or None with `need_weights=False`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    rewards: Float[Array, " batch"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Array, " batch"]:
        """The same as `rewards`."""
        return self.rewards


class EmbeddingOutput(NamedTuple):
    """The result of a model that embeds whole sequences.

    Attributes:
        embeddings: `(batch, features)`; also called `output`.
        last_hidden_state: `(batch, length, embed)`, normalised where the backbone does so.
        attentions: one `(batch, heads, length, length)` a layer, or None with `need_weights=False`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    embeddings: Float[Array, "batch features"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Array, "batch features"]:
        """The same as `embeddings`."""
        return self.embeddings


def all_weights(
    layers: Iterable[Float[Array, "batch heads query key"] | None],
) -> tuple[Float[Array, "batch heads query key"], ...] | None:
    """The weights of every layer, or None where none were asked for."""
    return tuple(weights for weights in layers if weights is not None) or None


def attention_output(
    output: Float[Array, "batch query dim"], weights: Float[Array, "batch heads query key"] | None, cache: Any
) -> AttentionOutput | CachedOutput:
    """What a call returns, with its cache if it had one."""
    return AttentionOutput(output, weights) if cache is None else CachedOutput(output, cache, weights)


def decoder_output(
    output: Float[Array, "batch query dim"],
    read: AttentionOutput | CachedOutput,
    cross_weights: Float[Array, "batch heads query key"] | None,
) -> DecoderOutput | CachedDecoderOutput:
    """What a decoder block returns, with the cache of its self-attention if that had one."""
    if isinstance(read, CachedOutput):
        return CachedDecoderOutput(output, read.cache, read.weights, cross_weights)
    return DecoderOutput(output, read.weights, cross_weights)
