"""Arguments that attention by dot products shares: those of constructors, and those of calls.

A class takes them as `**options: Unpack[Scaling]` and `**call: Unpack[SelfCall]`; `help` and editors show each by name.
"""

from typing import TypedDict

from jaxtyping import Bool, Int
from torch import Tensor, nn

from torch_attention.caches import Cache


class Dropping(TypedDict, total=False):
    """Arguments of every constructor.

    Attributes:
        dropout: dropout rate of the attention weights in training.
    """

    dropout: float


class Placing(Dropping, total=False):
    """Arguments of constructors that take any position scheme.

    Attributes:
        position: position scheme that places queries and keys; see `positions`.
    """

    position: nn.Module | None


class Scaled(Dropping, total=False):
    """Arguments of constructors that take a position scheme of one kind, or none.

    Attributes:
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
    """

    scale: float | None


class Scaling(Placing, total=False):
    """Arguments of constructors whose equation leaves the scale open.

    Attributes:
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
    """

    scale: float | None


class StreamingCall(TypedDict, total=False):
    """Arguments of every call, beside the sequence and its mask.

    Attributes:
        cache: KV cache with the tokens before, in causal attention; see `caches`.
        need_weights: whether to return the weights; without them the fastest implementation runs.
        dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
        implementation: one of `ops.dispatch.IMPLEMENTATIONS` for the output alone; None for the fastest.
    """

    cache: Cache | None
    need_weights: bool
    dropout_keep: Bool[Tensor, "..."] | None
    implementation: str | None


class PlacedCall(TypedDict, total=False):
    """Arguments of calls that say where the elements of a sequence stand.

    Attributes:
        positions: position of each element, for `position`; None counts from 0.
        lengths: how many elements of each sequence are there, `(batch,)`; what follows is padding.
        segments: number of the text that each element of a packed row belongs to, `(batch, length)`; it sees its own.
    """

    positions: Int[Tensor, "..."] | None
    lengths: Int[Tensor, "..."] | None
    segments: Int[Tensor, "..."] | None


class SelfCall(StreamingCall, PlacedCall, total=False):
    """Arguments of calls of a class whose positions can be given."""


class UndroppedCall(PlacedCall, total=False):
    """Arguments of calls of a class without dropout.

    Attributes:
        cache, need_weights, implementation: as in `StreamingCall`.
    """

    cache: Cache | None
    need_weights: bool
    implementation: str | None


class SharedCall(SelfCall, total=False):
    """Arguments of calls of a class whose layers may share a positional encoding.

    Attributes:
        position: positional encoding of this call (e.g. a `T5Bias` of all layers); None uses the layer's own.
    """

    position: nn.Module | None


class CrossCall(TypedDict, total=False):
    """Arguments of every call from one sequence to another, beside these and the mask.

    Attributes:
        query_positions, key_positions: positions of their elements, for `position`; None counts from 0.
        query_lengths, key_lengths: how many elements of each sequence are there, `(batch,)`.
        query_segments, key_segments: numbers of texts, `(batch, query)` and `(batch, key)`; a query sees its own text.
        need_weights, dropout_keep, implementation: as in `SelfCall`.
    """

    query_positions: Int[Tensor, "..."] | None
    key_positions: Int[Tensor, "..."] | None
    query_lengths: Int[Tensor, "..."] | None
    key_lengths: Int[Tensor, "..."] | None
    query_segments: Int[Tensor, "..."] | None
    key_segments: Int[Tensor, "..."] | None
    need_weights: bool
    dropout_keep: Bool[Tensor, "..."] | None
    implementation: str | None
