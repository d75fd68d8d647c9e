"""Base class of dot-product cross-attention: argument checks and positional encoding.

A subclass implements its projections from two sequences:

    self.check(query, memory, mask, **call)                       # before any arithmetic
    query = split_heads(self.q_proj(query), self.head_dim)        # the subclass's projections
    ...
    seen = self.see(query, KeyValue(key, value), mask, **call)    # positional encoding
    heads, weights = seen.attend()                                # the equation
"""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.caches import KeyValue
from jax_attention.checks import check_pairs, check_sequence
from jax_attention.frame.options import CrossCall
from jax_attention.frame.seen import Seen
from jax_attention.layers import Dropout
from jax_attention.ops.call import check_integers, check_segments
from jax_attention.ops.dispatch import Restrictions
from jax_attention.positions.protocol import check_positions, check_scheme, place


class CrossAttentionFrame(nnx.Module):
    """Base class of dot-product cross-attention.

    Attributes:
        query_dim, key_dim: features of the query sequence and of the memory; None for any.
        num_heads, has_heads, head_dim: as in `SelfAttentionFrame`; `head_dim` may be None for any.
        position, scale, dropout: as in `Scaling`.
    """

    def __init__(
        self,
        query_dim: int | None,
        key_dim: int | None,
        num_heads: int | None,
        head_dim: int | None,
        *,
        position: nnx.Module | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs | None = None,
    ):
        self.query_dim, self.key_dim = query_dim, key_dim
        self.num_heads = 1 if num_heads is None else num_heads
        self.has_heads = num_heads is not None
        self.head_dim = head_dim
        check_scheme(position, num_heads=self.num_heads, head_dim=head_dim)
        self.position = position
        self.scale = scale
        self.dropout = Dropout(dropout, rngs=rngs)

    def check(
        self,
        query: Float[Array, "batch query query_dim"],
        memory: Float[Array, "batch key key_dim"],
        mask: Bool[Array, "..."] | None,
        **call: Unpack[CrossCall],
    ) -> None:
        """Raise unless the arguments of a call are consistent with each other and with this layer."""
        check_sequence("query", query, self.query_dim)
        check_sequence("memory", memory, self.key_dim, batch=query.shape[0])
        heads = self.num_heads if self.has_heads else None
        check_pairs(query, memory, mask, call.get("dropout_keep"), heads)
        check_positions("query_positions", call.get("query_positions"), query, self.position)
        check_positions("key_positions", call.get("key_positions"), memory, self.position)
        check_integers("query_lengths", call.get("query_lengths"), "batch", (query.shape[0],))
        check_integers("key_lengths", call.get("key_lengths"), "batch", (query.shape[0],))
        check_integers("query_segments", call.get("query_segments"), "batch, query", tuple(query.shape[:2]))
        check_integers("key_segments", call.get("key_segments"), "batch, key", tuple(memory.shape[:2]))
        check_segments(call.get("query_segments"), call.get("key_segments"))

    def see(
        self,
        query: Float[Array, "batch heads query head_dim"],
        entries: KeyValue,
        mask: Bool[Array, "..."] | None,
        **call: Unpack[CrossCall],
    ) -> Seen:
        """Apply the positional encoding to queries and keys, and combine them with the options of the call."""
        keep = call.get("dropout_keep")
        if keep is not None and not self.has_heads:
            keep = keep[:, None]
        positions = call.get("query_positions"), call.get("key_positions")
        placed = place(self.position, query, entries.key, *positions)
        scoring: Restrictions = {
            "scale": self.scale,
            "query_lengths": call.get("query_lengths"),
            "key_lengths": call.get("key_lengths"),
            "query_segments": call.get("query_segments"),
            "key_segments": call.get("key_segments"),
        }
        return Seen(
            placed.query,
            placed.key,
            entries.value,
            placed.bias,
            mask,
            entries=entries,
            cache=None,
            scoring=scoring,
            need_weights=call.get("need_weights", True),
            dropout=self.dropout,
            dropout_keep=keep,
            implementation=call.get("implementation"),
        )
