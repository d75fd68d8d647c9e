r"""The frame of self-attention: what every class of dot products does around its projections and its equation.

$$ S = s\,Q K^\top + B, \qquad A = \mathrm{softmax}(S), \qquad \mathrm{heads} = A V $$

A class says what is its own, and takes the rest from here:

    self.check(x, mask, **call)                                   # before any arithmetic
    query = split_heads(self.q_proj(x), self.head_dim)            # its projections
    ...
    seen = self.see(query, KeyValue(key, value), mask, **call)    # with the cache, placed by position
    heads, weights = seen.attend()                                # its equation
    return seen.answer(self.out_proj(merge_heads(heads)), weights)

A class with weights of its own makes them of `seen.scores()` and reads the values with `seen.read(weights)`.
"""

from typing import Any, NamedTuple, TypedDict, Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.caches import Cache, Recalled
from torch_attention.checks import check_sequence
from torch_attention.layers import Dropout
from torch_attention.masks import and_masks
from torch_attention.ops.call import Call, checked_call
from torch_attention.ops.choice import fastest
from torch_attention.ops.definition import call_scores, call_values
from torch_attention.ops.dot_product import Restrictions
from torch_attention.ops.placed import Placed
from torch_attention.ops.softmax import masked_softmax, sink_softmax
from torch_attention.outputs import AttentionOutput, CachedOutput, attention_output
from torch_attention.positions.protocol import check_scheme, place
from torch_attention.recall import check_call, recall


class Dropping(TypedDict, total=False):
    """Arguments of every constructor.

    Attributes:
        dropout: rate at which weights are dropped in training.
    """

    dropout: float


class Placing(Dropping, total=False):
    """Arguments of constructors that take any position scheme.

    Attributes:
        position: what tells queries and keys where they stand; see `positions`.
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


class SelfCall(TypedDict, total=False):
    """Arguments of every call, beside the sequence and its mask.

    Attributes:
        positions: position of each element, for `position`; None counts from 0.
        cache: KV cache with the tokens before, in causal attention; see `caches`.
        need_weights: whether to return the weights; without them the fastest implementation runs.
        dropout_keep: dropout mask, False where a weight is dropped; in place of a random one.
    """

    positions: Int[Tensor, "..."] | None
    cache: Cache | None
    need_weights: bool
    dropout_keep: Bool[Tensor, "..."] | None


class Seen(NamedTuple):
    """Queries and all keys that they may attend to, placed by position: what the equation is about.

    Attributes:
        query: `(batch, heads, length, head_dim)`.
        key: `(batch, kv_heads, slots, head_dim)`, those of the cache before the new ones.
        value: `(batch, kv_heads, slots, value_dim)`.
        bias: what the position scheme adds to the scores.
        mask: True where the query attends to the key.
        entries: all that is held of each token, as `KeyValue`.
        cache: what the next call goes on from; None without one.
        scoring: causality, window, place of the first query and scale; as in `ops.dot_product_attention`.
        need_weights: whether weights are returned.
        dropout: what drops weights in training.
        dropout_keep: dropout mask in place of a random one.
    """

    query: Float[Tensor, "batch heads length head_dim"]
    key: Float[Tensor, "batch kv_heads slots head_dim"]
    value: Float[Tensor, "batch kv_heads slots value_dim"]
    bias: Float[Tensor, "..."] | None
    mask: Bool[Tensor, "..."] | None
    entries: Any
    cache: Any
    scoring: Restrictions
    need_weights: bool
    dropout: Dropout
    dropout_keep: Bool[Tensor, "..."] | None

    def attend(
        self, *, softcap: float | None = None, sinks: Float[Tensor, "heads"] | None = None
    ) -> tuple[
        Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads length slots"] | None
    ]:
        """The equation: softmax of the scores, mean of the values.

        Args:
            softcap, sinks: as in `ops.dot_product_attention_weights`.

        Returns:
            What each head reads, and its weights before dropout; None where they are not asked for, for then the
            fastest implementation makes none.
        """
        call = self.sampled().call(softcap, sinks)
        if not self.need_weights:
            return fastest(call), None
        scores, mask = call_scores(call)  # batch heads length slots
        weights = masked_softmax(scores, mask) if sinks is None else sink_softmax(scores, sinks, mask)
        return call_values(call, weights), weights

    def sampled(self) -> "Seen":
        """The same with a dropout mask, random if none was given, and none if nothing is dropped."""
        keep = self.dropout.keep_weights(self.query, self.key, self.dropout_keep)
        return self._replace(dropout_keep=keep)

    def with_bias(self, bias: Float[Tensor, "..."]) -> "Seen":
        """The same with another bias, beside that of the position scheme."""
        return self._replace(bias=bias if self.bias is None else bias + self.bias)

    def with_mask(self, mask: Bool[Tensor, "..."]) -> "Seen":
        """The same with fewer keys seen: those of this mask alone."""
        return self._replace(mask=mask if self.mask is None else and_masks(mask, self.mask))

    def scores(self) -> tuple[Float[Tensor, "batch heads length slots"], Bool[Tensor, "..."] | None]:
        """Scores in at least float32, and the mask of all restrictions; for weights that are no softmax."""
        return call_scores(self.call())

    def read(
        self, weights: Float[Tensor, "batch heads length slots"]
    ) -> Float[Tensor, "batch heads length value_dim"]:
        """The mean of the values under weights of any kind, some of them dropped in training."""
        return call_values(self.sampled().call(), weights)

    def answer(
        self,
        output: Float[Tensor, "batch length dim"],
        weights: Float[Tensor, "batch heads length slots"] | None,
    ) -> AttentionOutput | CachedOutput:
        """What a call returns: with the cache, if one was given, and with weights, if they were asked for."""
        return attention_output(output, weights if self.need_weights else None, self.cache)

    def call(self, softcap: float | None = None, sinks: Float[Tensor, "heads"] | None = None) -> Call:
        """The checked call of the equation, for what reads its parts."""
        return checked_call(
            self.query,
            self.key,
            self.value,
            self.bias,
            self.mask,
            softcap=softcap,
            sinks=sinks,
            dropout_keep=self.dropout_keep,
            dropout_rate=0.0 if self.dropout_keep is None else self.dropout.rate,
            **self.scoring,
        )


class SelfAttentionFrame(nn.Module):
    """What all self-attention of dot products holds, and how a call begins.

    Attributes:
        embed_dim: features of input and output.
        num_heads: heads of queries.
        has_heads: whether weights have an axis for heads; without one there is a single head.
        head_dim: features of a query and a key.
        is_causal: whether no position sees what comes after it.
        window: how many keys a position sees at most, its own included; None for all.
        position, scale, dropout: as in `Scaling`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int | None,
        head_dim: int,
        *,
        is_causal: bool = False,
        window: int | None = None,
        position: nn.Module | None = None,
        placed_dim: int | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_heads = 1 if num_heads is None else num_heads
        self.has_heads = num_heads is not None
        placed_dim = head_dim if placed_dim is None else placed_dim  # features that are placed by position
        check_scheme(position, num_heads=self.num_heads, head_dim=placed_dim)
        self.embed_dim = embed_dim
        self.head_dim = head_dim
        self.is_causal = is_causal
        self.window = window
        self.position = position
        self.scale = scale
        self.dropout = Dropout(dropout)

    def check(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None,
        **call: Unpack[SelfCall],
    ) -> None:
        """Raise unless the arguments of a call fit each other, its cache, and this layer."""
        check_sequence("x", x, self.embed_dim)
        check_call(
            x,
            mask,
            call.get("positions"),
            call.get("dropout_keep"),
            call.get("cache"),
            position=self.position,
            num_heads=self.num_heads if self.has_heads else None,
            is_causal=self.is_causal,
            window=self.window,
        )

    def see(
        self,
        query: Float[Tensor, "batch heads length head_dim"],
        entries: Any,
        mask: Bool[Tensor, "..."] | None,
        **call: Unpack[SelfCall],
    ) -> Seen:
        """Queries and all keys that they may attend to: those of the cache and the new ones, placed by position."""
        found = self.recall(entries, mask, **call)
        return self.place(found, query, found.entries.key, **call)

    def recall(self, entries: Any, mask: Bool[Tensor, "..."] | None, **call: Unpack[SelfCall]) -> Recalled:
        """What is held of all tokens: what the cache holds of those before, and `entries` of the new ones."""
        return recall(call.get("cache"), entries, mask, call.get("positions"))

    def place(
        self,
        found: Recalled,
        query: Float[Tensor, "batch heads length head_dim"],
        key: Float[Tensor, "batch kv_heads slots head_dim"],
        **call: Unpack[SelfCall],
    ) -> Seen:
        """Queries, and keys of all tokens that were found, placed by position."""
        placed = place(self.position, query, key, found.query_positions, found.key_positions)
        return self.placed(found, placed, found.entries.value, **call)

    def placed(
        self,
        found: Recalled,
        placed: Placed,
        value: Float[Tensor, "batch kv_heads slots value_dim"],
        **call: Unpack[SelfCall],
    ) -> Seen:
        """Queries and keys that were placed by the class itself, with what the call says of them."""
        keep = call.get("dropout_keep")
        if keep is not None and not self.has_heads:
            keep = keep[:, None]
        return Seen(
            placed.query,
            placed.key,
            value,
            placed.bias,
            found.mask,
            entries=found.entries,
            cache=found.cache,
            scoring=Restrictions(
                is_causal=self.is_causal, window=self.window, query_offset=found.offset, scale=self.scale
            ),
            need_weights=call.get("need_weights", True),
            dropout=self.dropout,
            dropout_keep=keep,
        )
