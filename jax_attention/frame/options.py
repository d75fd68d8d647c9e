"""Shared keyword arguments of dot-product attention: constructor arguments and call arguments.

Classes declare them as `**options: Unpack[Scaling]` and `**call: Unpack[SelfCall]`. `help` and editors show each
argument by name.
"""

from typing import TypedDict

from flax import nnx
from jax import Array
from jaxtyping import Bool, Int

from jax_attention.caches import Cache


class Dropping(TypedDict, total=False):
    """Constructor arguments of every class.

    Attributes:
        dropout: dropout rate of the attention weights in training.
    """

    dropout: float


class Placing(Dropping, total=False):
    """Constructor arguments of classes that accept any positional encoding.

    Attributes:
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
    """

    position: nnx.Module | None


class Scaled(Dropping, total=False):
    """Constructor arguments of classes with one kind of positional encoding, or none.

    Attributes:
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
    """

    scale: float | None


class Scaling(Placing, total=False):
    """Constructor arguments of classes with any positional encoding and a free scale.

    Attributes:
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
    """

    scale: float | None


class StreamingCall(TypedDict, total=False):
    """Call arguments of every self-attention class, besides the sequence and its mask.

    Attributes:
        cache: KV cache of the earlier positions, for causal attention; None without one.
        need_weights: whether to return the attention weights; without them a fused kernel may run.
        dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
        implementation: name of the implementation for calls without weights, one of `ops.dispatch.IMPLEMENTATIONS`;
            None for the fastest.
    """

    cache: Cache | None
    need_weights: bool
    dropout_keep: Bool[Array, "..."] | None
    implementation: str | None


class PlacedCall(TypedDict, total=False):
    """Call arguments for the positions, lengths and segments of a sequence.

    Attributes:
        positions: positions of the tokens for the positional encoding; None counts from 0.
        lengths: number of real tokens in each sequence, `(batch,)`; the rest is padding. None for no padding.
        segments: segment number of each token, `(batch, length)`; tokens attend only within their segment.
    """

    positions: Int[Array, "..."] | None
    lengths: Int[Array, "..."] | None
    segments: Int[Array, "..."] | None


class SelfCall(StreamingCall, PlacedCall, total=False):
    """Call arguments of self-attention classes that accept explicit positions."""


class UndroppedCall(PlacedCall, total=False):
    """Call arguments of self-attention classes without dropout.

    Attributes:
        cache, need_weights, implementation: as in `StreamingCall`.
    """

    cache: Cache | None
    need_weights: bool
    implementation: str | None


class SharedCall(SelfCall, total=False):
    """Call arguments of self-attention classes that can share a positional encoding between layers.

    Attributes:
        position: positional encoding for this call, such as a `T5Bias` shared by all layers; None for the layer's own.
    """

    position: nnx.Module | None


class CrossCall(TypedDict, total=False):
    """Call arguments of cross-attention classes, besides the two sequences and the mask.

    Attributes:
        query_positions, key_positions: positions of the tokens for the positional encoding; None counts from 0.
        query_lengths, key_lengths: number of real tokens in each sequence, `(batch,)`; the rest is padding.
        query_segments, key_segments: segment number of each token, `(batch, query)` and `(batch, key)`; a query
            attends only to keys of its segment.
        need_weights, dropout_keep, implementation: as in `SelfCall`.
    """

    query_positions: Int[Array, "..."] | None
    key_positions: Int[Array, "..."] | None
    query_lengths: Int[Array, "..."] | None
    key_lengths: Int[Array, "..."] | None
    query_segments: Int[Array, "..."] | None
    key_segments: Int[Array, "..."] | None
    need_weights: bool
    dropout_keep: Bool[Array, "..."] | None
    implementation: str | None
