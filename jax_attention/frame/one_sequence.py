"""The frame of self-attention: what every class of dot products does around its projections and its equation.

A class says what is its own, and takes the rest from here:

    self.check(x, mask, **call)                                   # before any arithmetic
    query = split_heads(self.q_proj(x), self.head_dim)            # its projections
    ...
    seen = self.see(query, KeyValue(key, value), mask, **call)    # with the cache, placed by position
    heads, weights = seen.attend()                                # its equation
    return seen.answer(self.out_proj(merge_heads(heads)), weights)

A class with weights of its own makes them of `seen.scores()` and reads the values with `seen.read(weights)`.
"""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.caches import Cache, Recalled
from jax_attention.checks import check_sequence
from jax_attention.frame.options import SharedCall
from jax_attention.frame.seen import Seen
from jax_attention.layers import Dropout
from jax_attention.ops import Placed
from jax_attention.ops.arguments import check_integers
from jax_attention.ops.dot_product import Restrictions
from jax_attention.positions.protocol import check_scheme, place
from jax_attention.recall import check_call, recall


class SelfAttentionFrame(nnx.Module):
    """What all self-attention of dot products holds, and how a call begins.

    Attributes:
        embed_dim: features of input and output.
        num_heads: heads of queries.
        has_heads: whether weights have an axis for heads; without one there is a single head.
        head_dim: features of a query and a key.
        is_causal: whether no position sees what comes after it.
        window: how many keys a position sees at most, its own included; None for all.
        num_sinks: how many of the first keys it sees besides.
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
        num_sinks: int = 0,
        position: nnx.Module | None = None,
        placed_dim: int | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs | None = None,
    ):
        self.num_heads = 1 if num_heads is None else num_heads
        self.has_heads = num_heads is not None
        placed_dim = head_dim if placed_dim is None else placed_dim  # features that are placed by position
        check_scheme(position, num_heads=self.num_heads, head_dim=placed_dim)
        self.embed_dim = embed_dim
        self.head_dim = head_dim
        self.is_causal = is_causal
        self.window = window
        self.num_sinks = num_sinks
        self.position = position
        self.scale = scale
        self.dropout = Dropout(dropout, rngs=rngs)

    def check(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None,
        **call: Unpack[SharedCall],
    ) -> None:
        """Raise unless the arguments of a call fit each other, its cache, and this layer."""
        check_sequence("x", x, self.embed_dim)
        check_call(
            x,
            mask,
            call.get("positions"),
            call.get("dropout_keep"),
            call.get("cache"),
            position=self._scheme(call),
            num_heads=self.num_heads if self.has_heads else None,
            is_causal=self.is_causal,
            window=self.window,
            num_sinks=self.num_sinks,
        )
        _check_of_elements("lengths", call.get("lengths"), "batch", (x.shape[0],), call.get("cache"))
        _check_of_elements(
            "segments", call.get("segments"), "batch, length", tuple(x.shape[:2]), call.get("cache")
        )

    def see(
        self,
        query: Float[Array, "batch heads length head_dim"],
        entries: Any,
        mask: Bool[Array, "..."] | None,
        **call: Unpack[SharedCall],
    ) -> Seen:
        """Queries and all keys that they may attend to: those of the cache and the new ones, placed by position."""
        found = self.recall(entries, mask, **call)
        return self.place(found, query, found.entries.key, **call)

    def is_cut(self, **call: Unpack[SharedCall]) -> bool:
        """Whether a call may be answered block by block: of keys that are near, without weights or a cache."""
        given = [call.get("cache"), call.get("implementation"), call.get("lengths"), call.get("segments")]
        return not call.get("need_weights", True) and all(x is None for x in given)

    def recall(self, entries: Any, mask: Bool[Array, "..."] | None, **call: Unpack[SharedCall]) -> Recalled:
        """What is held of all tokens: what the cache holds of those before, and `entries` of the new ones."""
        return recall(call.get("cache"), entries, mask, call.get("positions"))

    def place(
        self,
        found: Recalled,
        query: Float[Array, "batch heads length head_dim"],
        key: Float[Array, "batch kv_heads slots head_dim"],
        **call: Unpack[SharedCall],
    ) -> Seen:
        """Queries, and keys of all tokens that were found, placed by position."""
        placed = place(self._scheme(call), query, key, found.query_positions, found.key_positions)
        return self.placed(found, placed, found.entries.value, **call)

    def _scheme(self, call: Any) -> Any:
        """What places queries and keys: the scheme of the call, if it has one, else the layer's own."""
        shared = call.get("position")
        if shared is None:
            return self.position
        check_scheme(shared, num_heads=self.num_heads, head_dim=self.head_dim)
        return shared

    def placed(
        self,
        found: Recalled,
        placed: Placed,
        value: Float[Array, "batch kv_heads slots value_dim"],
        **call: Unpack[SharedCall],
    ) -> Seen:
        """Queries and keys that were placed by the class itself, with what the call says of them."""
        keep = call.get("dropout_keep")
        if keep is not None and not self.has_heads:
            keep = keep[:, None]
        scoring: Restrictions = {
            "is_causal": self.is_causal,
            "window": self.window,
            "query_offset": found.offset,
            "scale": self.scale,
            "query_lengths": call.get("lengths"),
            "key_lengths": call.get("lengths"),
            "query_segments": call.get("segments"),
            "key_segments": call.get("segments"),
        }
        return Seen(
            placed.query,
            placed.key,
            value,
            placed.bias,
            found.mask,
            entries=found.entries,
            cache=found.cache,
            scoring=scoring,
            need_weights=call.get("need_weights", True),
            dropout=self.dropout,
            dropout_keep=keep,
            implementation=call.get("implementation"),
        )


def _check_of_elements(name: str, given: Any, axes: str, shape: tuple[int, ...], cache: Cache | None) -> None:
    """Raise unless what is said of the elements of a sequence fits it, and there is no cache, which says it itself."""
    check_integers(name, given, axes, shape)
    if given is not None and cache is not None:
        raise ValueError(f"{name} must be None with a cache, got shape {tuple(given.shape)}")
