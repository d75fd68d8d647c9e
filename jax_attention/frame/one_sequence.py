"""Base class of dot-product self-attention: argument checks, KV-cache lookup and positional encoding.

A subclass implements its projections and its equation, and calls the base class for the rest:

    self.check(x, mask, **call)                                   # before any arithmetic
    query = split_heads(self.q_proj(x), self.head_dim)            # the subclass's projections
    ...
    seen = self.see(query, KeyValue(key, value), mask, **call)    # KV cache and positional encoding
    heads, weights = seen.attend()                                # the equation
    return seen.answer(self.out_proj(merge_heads(heads)), weights)

A class whose weights are not a softmax computes them from `seen.scores()`, and calls `seen.read(weights)`.
"""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.caches import Cache, Recalled
from jax_attention.checks import check_key_mask, check_pairs, check_sequence, dtype_name
from jax_attention.frame.options import SharedCall
from jax_attention.frame.seen import Seen
from jax_attention.layers import Dropout
from jax_attention.ops import Placed
from jax_attention.ops.call import check_integers
from jax_attention.ops.dispatch import Restrictions
from jax_attention.positions.protocol import check_positions, check_scheme, place


class SelfAttentionFrame(nnx.Module):
    """Base class of dot-product self-attention.

    Attributes:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        has_heads: whether the weights have a head axis; without one there is a single head.
        head_dim: features of a query and a key.
        is_causal: whether each position attends only to itself and earlier positions.
        window: number of visible keys, including the query's own; without causality, so many on each side; None for
            no limit.
        num_sinks: number of first keys that are visible besides the window.
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
        placed_dim = head_dim if placed_dim is None else placed_dim  # features with positional encoding
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
        """Raise unless the arguments of a call are consistent with each other, the cache and this layer."""
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
        """Look up the KV cache and apply the positional encoding to the queries and to all keys."""
        found = self.recall(entries, mask, **call)
        return self.place(found, query, found.entries.key, **call)

    def is_cut(self, **call: Unpack[SharedCall]) -> bool:
        """Whether block-local attention can compute a call: one without weights, cache, lengths or segments."""
        given = [call.get("cache"), call.get("implementation"), call.get("lengths"), call.get("segments")]
        return not call.get("need_weights", True) and all(x is None for x in given)

    def recall(self, entries: Any, mask: Bool[Array, "..."] | None, **call: Unpack[SharedCall]) -> Recalled:
        """Join the entries in the KV cache and the `entries` of the new tokens."""
        return recall(call.get("cache"), entries, mask, call.get("positions"))

    def place(
        self,
        found: Recalled,
        query: Float[Array, "batch heads length head_dim"],
        key: Float[Array, "batch kv_heads slots head_dim"],
        **call: Unpack[SharedCall],
    ) -> Seen:
        """Apply the positional encoding to the queries and to the keys of all tokens."""
        placed = place(self._scheme(call), query, key, found.query_positions, found.key_positions)
        return self.placed(found, placed, found.entries.value, **call)

    def _scheme(self, call: Any) -> Any:
        """Positional encoding of the call: the given one, else the layer's own."""
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
        """Combine queries and keys that have their positional encoding with the options of the call."""
        keep = call.get("dropout_keep")
        if keep is not None and not self.has_heads:
            keep = keep[:, None]
        window = self.window
        scoring: Restrictions = {
            "is_causal": self.is_causal,
            "window": window if window is None or self.is_causal else (window - 1, window - 1),
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
    """Raise an error if lengths or segments have a wrong dtype or shape, or are given with a cache."""
    check_integers(name, given, axes, shape)
    if given is not None and cache is not None:
        raise ValueError(f"{name} must be None with a cache, got shape {tuple(given.shape)}")


def recall(
    cache: Cache | None,
    entries: Any,
    mask: Bool[Array, "..."] | None = None,
    positions: Int[Array, "..."] | None = None,
) -> Recalled:
    """Join the entries in the KV cache with the entries of the new tokens.

    Args:
        cache: KV cache of the earlier positions; None without one.
        entries: entries of the new tokens, such as a `KeyValue`.
        mask: with a cache, `(batch, 1, 1, new)`, True for new tokens that are not padding; without one, the mask of
            the call, returned unchanged.
        positions: positions of the tokens, returned unchanged; None with a cache.

    Raises:
        ValueError: the cached entries differ in dtype or shape from the new ones.
    """
    if cache is None:
        return Recalled(entries, mask, 0, positions, positions, None)
    if cache.entries is not None:
        held, new = (", ".join(map(_kind, x)) for x in (cache.entries, entries))
        if held != new:
            raise ValueError(f"cache must hold {new} as x gives, got {held}")
    if mask is None:
        return cache.extend(entries, None)
    batch = entries[0].shape[0]
    return cache.extend(entries, jnp.broadcast_to(mask[:, 0, 0], (batch, mask.shape[-1])))


def check_call(
    x: Float[Array, "batch length embed"],
    mask: Bool[Array, "..."] | None,
    positions: Int[Array, "..."] | None,
    dropout_keep: Bool[Array, "..."] | None,
    cache: Cache | None,
    *,
    position: Any,
    num_heads: int | None,
    is_causal: bool = True,
    window: int | None = None,
    num_sinks: int = 0,
    name: str = "mask",
) -> None:
    """Raise unless the arguments of a self-attention call are consistent with its input and its cache.

    Args:
        x, mask, positions, dropout_keep, cache: arguments of the call.
        position: positional encoding of the layer; None for none.
        num_heads: number of heads of the weights; None for weights without a head axis.
        is_causal: whether each position attends only to itself and earlier positions.
        window: number of visible keys, including the query's own; None for no limit.
        num_sinks: number of first keys that are visible besides the window.
        name: name of the mask in error messages.
    """
    if cache is None:
        check_pairs(x, x, mask, dropout_keep, num_heads, name=name)
        check_positions("positions", positions, x, position)
        return
    if not is_causal:
        raise ValueError(
            "cache needs is_causal=True: attention to later tokens has no decode step, got is_causal=False"
        )
    for name, given in (("positions", positions), ("dropout_keep", dropout_keep)):
        if given is not None:
            raise ValueError(f"{name} must be None with a cache, got shape {tuple(given.shape)}")
    num_axes = getattr(position, "num_axes", None)
    if num_axes is not None:
        raise ValueError(
            f"cache counts positions along one axis, got a position scheme with num_axes={num_axes}"
        )
    batch, length = x.shape[:2]
    check_key_mask(mask, batch, length)
    if cache.entries is not None and cache.entries[0].shape[0] != batch:
        raise ValueError(f"cache must hold {batch} sequences as x does, got {cache.entries[0].shape[0]}")
    cache.check(length, window, num_sinks)


def _kind(x: Float[Array, "... length dim"]) -> str:
    """Text with the dtype and shape of an array, without its length."""
    return f"{dtype_name(x)} ({', '.join(map(str, x.shape[:-2]))}, length, {x.shape[-1]})"
