r"""KV caches for incremental decoding.

A call with a cache takes only the new tokens, any number of them, and returns the same outputs for them as a call on
the whole sequence. Prefill in chunks and decoding token by token are the same call.

    cache = GrowingCache()
    output, cache, weights = attn(prompt, cache=cache)
    output, cache, weights = attn(next_token, cache=cache)

A cache is an immutable value: a call takes one and returns a longer one. The old one is unchanged and can be
continued again, for example by another beam. Keys are stored before the positional encoding, which is applied at
every call.

| class          | holds                                 | use                                               |
|----------------|---------------------------------------|---------------------------------------------------|
| `GrowingCache` | all tokens, in arrays that grow       | calls that are not compiled                       |
| `StaticCache`  | all tokens, in arrays of a fixed size | a decode step compiled once for all positions     |
| `RollingCache` | the last tokens and the first ones    | sliding windows over endless sequences            |
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import record
from jax_attention.checks import check_positive
from jax_attention.ops.arrays import known_values, write_slots


class KeyValue(NamedTuple):
    """Keys and values of tokens, as most attention classes cache them.

    Attributes:
        key: keys before the positional encoding, `(batch, kv_heads, length, head_dim)`.
        value: values, `(batch, kv_heads, length, value_dim)`.
    """

    key: Float[Array, "batch kv_heads length head_dim"]
    value: Float[Array, "batch kv_heads length value_dim"]


class Recalled(NamedTuple):
    """Keys and values that the new tokens of a call may attend to, with their mask and positions.

    Attributes:
        entries: keys and values of the cached tokens, then of the new tokens.
        mask: valid slots, `(batch, 1, 1, slots)`; without a cache, the mask of the call.
        offset: index of the first new token among the entries.
        query_positions: positions of the new tokens.
        key_positions: positions of all entries.
        cache: KV cache for the next call; None without one.
    """

    entries: Any
    mask: Bool[Array, "..."] | None
    offset: int | Int[Array, ""]
    query_positions: Int[Array, "..."] | None
    key_positions: Int[Array, "..."] | None
    cache: Any


class Cache:
    """Base class of KV caches; an attention call takes a cache and returns one extended by the new tokens."""

    @property
    def entries(self) -> Any:
        """Keys and values, or other arrays whose axis -2 is the length; None before the first call."""
        raise NotImplementedError

    @property
    def length(self) -> Any:
        """Number of tokens read so far."""
        raise NotImplementedError

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Raise ValueError if the cache has no room for `new` tokens or does not hold all keys of the window."""
        raise NotImplementedError

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Append the entries of new tokens, and return all entries that these tokens may attend to."""
        raise NotImplementedError


@runtime_checkable
class State(Protocol):
    """State of a recurrent layer: a named tuple of arrays, used instead of a KV cache."""

    _fields: tuple[str, ...]


@record()
class GrowingCache(Cache):
    """KV cache of all tokens, in arrays that grow with each call.

    Attributes:
        entries: arrays whose axis -2 is the length; None before the first call.
        visible: boolean mask of the cached tokens, False for padding, `(batch, length)`; None without padding.
    """

    entries: Any = None
    visible: Any = None

    @property
    def length(self) -> int:
        """Number of tokens read so far."""
        return 0 if self.entries is None else self.entries[0].shape[-2]

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Accept any number of new tokens and any window."""

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Append the entries of new tokens, and return all entries."""
        start, end = self.length, self.length + entries[0].shape[-2]
        if self.entries is not None:
            if self.visible is not None or visible is not None:
                both = [_shown(self.visible, self.entries), _shown(visible, entries)]
                visible = jnp.concatenate(both, axis=-1)  # batch length
            entries = _each(lambda old, x: jnp.concatenate([old, x], axis=-2), self.entries, entries)
        places = _count(end, entries)  # length
        extended = GrowingCache(entries, visible)
        return Recalled(entries, _as_mask(visible), start, places[start:], places, extended)

    def select(self, rows: Int[Array, " rows"]) -> "GrowingCache":
        """Select rows of the batch, in this order; a row may be repeated, as in beam search."""
        return GrowingCache(*_selected(self.entries, self.visible, rows))


@checked
@record(static=("capacity",))
class StaticCache(Cache):
    """KV cache of all tokens, in arrays of a fixed size; one compiled decode step works for every position.

    A call with more tokens than `capacity` raises an error. Compiled code (`jax.jit`, `torch.compile`) cannot raise it,
    because the number of tokens read is not known there: tokens beyond `capacity` overwrite the last slots, and results
    are wrong without an error. Choose a `capacity` of at least the length of the whole sequence.

    Attributes:
        capacity: number of tokens that the cache can hold.
        entries: arrays whose axis -2 is the slots, zero in free slots; None before the first call.
        visible: boolean mask of the cached tokens, False for padding, `(batch, capacity)`; None without padding.
        length: number of tokens read so far; an integer array of rank 0 after the first call.
    """

    capacity: int
    entries: Any = None
    visible: Any = None
    length: Any = 0

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Raise ValueError if the cache has no room for `new` tokens; skipped where `length` is a traced value."""
        check_positive(capacity=self.capacity)
        known = self.length if isinstance(self.length, int) else known_values(self.length)
        taken = 0 if known is None else int(known)
        if taken + new > self.capacity:
            raise ValueError(
                f"cache must have room for {taken + new} tokens, {taken} read and {new} new, "
                f"got capacity={self.capacity}"
            )

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Write the entries of new tokens, and return all slots; the causal mask excludes the free ones."""
        new = entries[0].shape[-2]
        slots = _count(self.capacity, entries)  # slots
        start = slots[0] + self.length
        before = _remembered(self.entries, entries, self.capacity)
        shown = self.visible
        if shown is not None or visible is not None:
            shown, visible = _shown(shown, before), _shown(visible, entries)  # batch slots, batch new
            shown = write_slots(shown[..., None], visible[..., None], start)[..., 0]  # batch slots
        entries = _each(lambda old, x: write_slots(old, x, start), before, entries)
        extended = StaticCache(self.capacity, entries, shown, start + new)
        return Recalled(entries, _as_mask(shown), start, start + slots[:new], slots, extended)

    def select(self, rows: Int[Array, " rows"]) -> "StaticCache":
        """Select rows of the batch, in this order; a row may be repeated, as in beam search."""
        return StaticCache(self.capacity, *_selected(self.entries, self.visible, rows), self.length)


@checked
@record(static=("window", "num_sinks"))
class RollingCache(Cache):
    """KV cache of the last `window` tokens and the first few; one compiled decode step works for every position.

    Attributes:
        window: number of last tokens to keep; at least the window of the attention.
        num_sinks: number of first tokens to keep besides; equal to `num_sinks` of the attention.
        entries: arrays whose axis -2 is the slots: the first tokens, then the last ones; None before the first call.
        visible: boolean mask of the slots, True for cached tokens that are not padding,
            `(batch, num_sinks + window)`; None before the first call.
        length: number of tokens read so far; an integer array of rank 0 after the first call.
    """

    window: int
    num_sinks: int = 0
    entries: Any = None
    visible: Any = None
    length: Any = 0

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Raise ValueError if the attention uses more earlier tokens than this cache keeps."""
        check_positive(window=self.window)
        if window is None or window > self.window:
            needed = "all tokens" if window is None else f"the last {window} tokens"
            raise ValueError(f"cache must hold {needed} that are attended to, got window={self.window}")
        if num_sinks != self.num_sinks:
            raise ValueError(
                f"cache must keep the first {num_sinks} tokens as the attention does, got num_sinks={self.num_sinks}"
            )

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Append the entries of new tokens, return all entries, and drop those that have left the window."""
        new, sinks, slots = entries[0].shape[-2], self.num_sinks, self.num_sinks + self.window
        before = _remembered(self.entries, entries, slots)
        shown = jnp.concatenate([_shown(self.visible, before), _shown(visible, entries)], axis=-1)
        entries = _each(lambda old, x: jnp.concatenate([old, x], axis=-2), before, entries)
        index = _count(slots + new, entries)  # slots+new
        if sinks:  # sinks that are not cached yet are among the new tokens
            late = jnp.clip(index - self.length + slots, max=slots + new - 1)  # slots+new
            source = jnp.where((index < sinks) & (index >= self.length), late, index)  # slots+new
            entries, shown = _each(lambda x: x[..., source, :], entries), shown[:, source]
        places = jnp.where(index < sinks, index, index - slots + self.length)  # slots+new
        there = jnp.where(index < sinks, index < self.length + new, places >= sinks)  # slots+new
        kept = _each(
            lambda x: jnp.concatenate([x[..., :sinks, :], x[..., sinks + new :, :]], axis=-2), entries
        )
        still = jnp.concatenate([shown[:, :sinks], shown[:, sinks + new :]], axis=-1)  # batch slots
        extended = RollingCache(self.window, sinks, kept, still, places[-1] + 1)
        return Recalled(entries, _as_mask(shown & there), slots, places[slots:], places, extended)

    def select(self, rows: Int[Array, " rows"]) -> "RollingCache":
        """Select rows of the batch, in this order; a row may be repeated, as in beam search."""
        kept = _selected(self.entries, self.visible, rows)
        return RollingCache(self.window, self.num_sinks, *kept, self.length)


def select_rows(memory: Any, rows: Int[Array, " rows"]) -> Any:
    """Select batch rows of a KV cache or recurrent state, in this order; a row may be repeated, as in beam search."""
    if memory is None or hasattr(memory, "select"):
        return None if memory is None else memory.select(rows)
    return (
        _each(lambda x: x[rows], memory)
        if isinstance(memory[0], Array)
        else _each(lambda x: select_rows(x, rows), memory)
    )


def _each(function: Callable[..., Array], *entries: Any) -> Any:
    """Apply a function to every array of the entries."""
    return type(entries[0])(*map(function, *entries))


def _selected(entries: Any, visible: Any, rows: Int[Array, " rows"]) -> tuple[Any, Any]:
    """Entries and token mask of the selected rows of the batch."""
    entries = None if entries is None else _each(lambda x: x[rows], entries)
    return entries, None if visible is None else visible[rows]


def _count(length: int, entries: Any) -> Int[Array, " length"]:
    """Indices 0, 1, ..., length - 1 of tokens or slots."""
    return jnp.arange(length)


def _remembered(entries: Any, new: Any, slots: int) -> Any:
    """Entries of a cache; before the first call, zeros in `slots` slots."""
    if entries is not None:
        return entries
    return _each(lambda x: jnp.zeros((*x.shape[:-2], slots, x.shape[-1]), dtype=x.dtype), new)


def _shown(visible: Bool[Array, "batch length"] | None, entries: Any) -> Bool[Array, "batch length"]:
    """Boolean mask of tokens that are not padding; all True by default."""
    x = entries[0]
    if visible is not None:
        return visible
    return jnp.ones((x.shape[0], x.shape[-2]), dtype=jnp.bool_)


def _as_mask(visible: Bool[Array, "batch slots"] | None) -> Bool[Array, "batch 1 1 slots"] | None:
    """Reshape a token mask so that it broadcasts over heads and queries."""
    return None if visible is None else visible[:, None, None]
