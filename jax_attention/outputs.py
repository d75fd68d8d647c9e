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
        cache: what is remembered of all tokens so far; give it to the next call.
        weights: `(batch, heads, new, slots)`; before dropout, in at least float32. None with `need_weights=False`.
    """

    output: Float[Array, "batch new dim"]
    cache: Any
    weights: Float[Array, "batch heads new slots"] | None


class RecurrentOutput(NamedTuple):
    """`output, state, weights = layer(x, state)`.

    Attributes:
        output: `(batch, length, dim)`.
        state: what the layer remembers of all it has read; give it to the next call to read on from there.
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
        cache: what is remembered of all positions so far; give it to the next call.
        self_weights: `(batch, heads, new, slots)`, or None with `need_weights=False`.
        cross_weights: `(batch, heads, new, key)`, or None with `need_weights=False`.
    """

    output: Float[Array, "batch new dim"]
    cache: Any
    self_weights: Float[Array, "batch heads new slots"] | None
    cross_weights: Float[Array, "batch heads new key"] | None


class EncoderOutput(NamedTuple):
    """`output, pooled, weights = encoder(tokens)`.

    Attributes:
        output: `(batch, length, embed)`.
        pooled: `(batch, embed)`, or None without a pooler.
        weights: one `(batch, heads, length, length)` a layer, or None with `need_weights=False`.
    """

    output: Float[Array, "batch length embed"]
    pooled: Float[Array, "batch embed"] | None
    weights: tuple[Float[Array, "batch heads length length"], ...] | None


class LanguageOutput(NamedTuple):
    """`output, caches, weights = decoder(tokens)`.

    Attributes:
        output: the logits, `(batch, length, vocab_size)`; from `read` the vectors, `(batch, length, embed)`.
        caches: what each layer remembers; give them to the next call. None if there were none.
        weights: one `(batch, heads, length, slots)` a layer, or None with `need_weights=False`.
    """

    output: Float[Array, "batch length ..."]
    caches: tuple[Any, ...] | None
    weights: tuple[Float[Array, "batch heads length slots"], ...] | None


class SequenceOutput(NamedTuple):
    """`output, caches, encoder_weights, self_weights, cross_weights = model(source, target)`.

    Attributes:
        output: the logits, `(batch, target, vocab_size)`.
        caches: what each layer of the decoder remembers; give them to the next call. None if there were none.
        encoder_weights: one `(batch, heads, source, source)` a layer, or None with `need_weights=False`.
        self_weights: one `(batch, heads, target, slots)` a layer, or None likewise.
        cross_weights: one `(batch, heads, target, source)` a layer, or None likewise.
    """

    output: Float[Array, "batch target vocab"]
    caches: tuple[Any, ...] | None
    encoder_weights: tuple[Float[Array, "batch heads source source"], ...] | None
    self_weights: tuple[Float[Array, "batch heads target slots"], ...] | None
    cross_weights: tuple[Float[Array, "batch heads target source"], ...] | None


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
