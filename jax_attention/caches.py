r"""Caches: what attention remembers of the tokens it has read, so that later ones can attend to them.

A call with a cache reads the new tokens alone, any number of them, and gives what a call on the whole sequence gives
at their places: reading a prompt in chunks and decoding token by token are the same call.

    cache = GrowingCache()
    output, cache, weights = attn(prompt, cache=cache)
    output, cache, weights = attn(next_token, cache=cache)

A cache is a value: it goes into a call and a longer one comes out. The old one stays as it was, and can be gone on
from again. Keys are remembered as they are before a position scheme places them, and placed whenever recalled.

| class          | remembers                             | for                                               |
|----------------|---------------------------------------|---------------------------------------------------|
| `GrowingCache` | all tokens, in arrays that grow       | calls one by one                                  |
| `StaticCache`  | all tokens, in arrays of a fixed size | one compiled step, the same for every place       |
| `RollingCache` | the last tokens, and the first        | windows, over texts without end                   |
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
    """What most kinds of attention remember of each token.

    Attributes:
        key: `(batch, kv_heads, length, head_dim)`, not yet placed.
        value: `(batch, kv_heads, length, value_dim)`.
    """

    key: Float[Array, "batch kv_heads length head_dim"]
    value: Float[Array, "batch kv_heads length value_dim"]


class Recalled(NamedTuple):
    """All that the new tokens of a call may attend to.

    Attributes:
        entries: of the tokens that are remembered, and of the new ones behind them.
        mask: which of these are there, `(batch, 1, 1, slots)`; without a cache, the mask of the call.
        offset: the index of the first new token among them.
        query_positions: where the new tokens stand.
        key_positions: where all of them stand.
        cache: KV cache for the next call; None without one.
    """

    entries: Any
    mask: Bool[Array, "..."] | None
    offset: int | Int[Array, ""]
    query_positions: Int[Array, "..."] | None
    key_positions: Int[Array, "..."] | None
    cache: Any


class Cache:
    """A KV cache, which a call of attention takes and returns longer; the base class of all caches."""

    @property
    def entries(self) -> Any:
        """Keys and values, or other arrays whose axis -2 is the length; None before the first call."""
        raise NotImplementedError

    @property
    def length(self) -> Any:
        """How many tokens it has read."""
        raise NotImplementedError

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Raise ValueError if it cannot take so many new tokens, or serve attention that sees so far back."""
        raise NotImplementedError

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Remember the entries of new tokens as well, and recall all that they may attend to."""
        raise NotImplementedError


@runtime_checkable
class State(Protocol):
    """State of a recurrent layer: a named tuple of arrays, in place of a KV cache."""

    _fields: tuple[str, ...]


@record()
class GrowingCache(Cache):
    """Remembers all tokens, in arrays that grow with each call.

    Attributes:
        entries: arrays whose axis -2 is the length; None before the first call.
        visible: which tokens are there, `(batch, length)`; None if none was ever masked.
    """

    entries: Any = None
    visible: Any = None

    @property
    def length(self) -> int:
        """How many tokens it has read."""
        return 0 if self.entries is None else self.entries[0].shape[-2]

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """It takes any number of tokens and serves every kind of attention."""

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Remember the entries of new tokens as well, and recall all."""
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
        """What it remembers of these texts of the batch, in this order; a text may come more than once."""
        return GrowingCache(*_selected(self.entries, self.visible, rows))


@checked
@record(static=("capacity",))
class StaticCache(Cache):
    """Remembers all tokens, in arrays of a fixed size: compiled once, a step serves every place in the sequence.

    A call with more tokens than `capacity` raises an error. Compiled code (`jax.jit`, `torch.compile`) cannot raise it,
    as it does not know how many tokens were read: tokens beyond `capacity` overwrite the last slots, and results are
    wrong without an error. Choose a `capacity` of at least the length of the whole text.

    Attributes:
        capacity: how many tokens it can hold.
        entries: arrays whose axis -2 are the slots, zero where nothing stands yet; None before the first call.
        visible: which tokens are there, `(batch, capacity)`; None if none was ever masked.
        length: how many tokens it has read; an integer array of rank 0 after the first call.
    """

    capacity: int
    entries: Any = None
    visible: Any = None
    length: Any = 0

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Raise ValueError if so many new tokens have no room, as far as that is known."""
        check_positive(capacity=self.capacity)
        known = self.length if isinstance(self.length, int) else known_values(self.length)
        taken = 0 if known is None else int(known)
        if taken + new > self.capacity:
            raise ValueError(
                f"cache must have room for {taken + new} tokens, {taken} read and {new} new, "
                f"got capacity={self.capacity}"
            )

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Remember the entries of new tokens as well, and recall all slots; causality hides those still free."""
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
        """What it remembers of these texts of the batch, in this order; a text may come more than once."""
        return StaticCache(self.capacity, *_selected(self.entries, self.visible, rows), self.length)


@checked
@record(static=("window", "num_sinks"))
class RollingCache(Cache):
    """Remembers the last `window` tokens, and the first few; compiled once, a step serves every place.

    Attributes:
        window: how many of the last tokens it keeps, at least as many as the attention sees.
        num_sinks: how many of the first tokens it keeps besides, as many as the attention does.
        entries: arrays whose axis -2 are the slots: the first tokens, then the last ones; None before the first call.
        visible: which tokens are there, `(batch, num_sinks + window)`; None before the first call.
        length: how many tokens it has read; an integer array of rank 0 after the first call.
    """

    window: int
    num_sinks: int = 0
    entries: Any = None
    visible: Any = None
    length: Any = 0

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Raise ValueError if the attention sees further back than this cache remembers."""
        check_positive(window=self.window)
        if window is None or window > self.window:
            needed = "all tokens" if window is None else f"the last {window} tokens"
            raise ValueError(f"cache must remember {needed} that are attended to, got window={self.window}")
        if num_sinks != self.num_sinks:
            raise ValueError(
                f"cache must keep the first {num_sinks} tokens as the attention does, got num_sinks={self.num_sinks}"
            )

    def extend(self, entries: Any, visible: Bool[Array, "batch new"] | None) -> Recalled:
        """Remember the entries of new tokens as well, recall all, and forget what has left the window."""
        new, sinks, slots = entries[0].shape[-2], self.num_sinks, self.num_sinks + self.window
        before = _remembered(self.entries, entries, slots)
        shown = jnp.concatenate([_shown(self.visible, before), _shown(visible, entries)], axis=-1)
        entries = _each(lambda old, x: jnp.concatenate([old, x], axis=-2), before, entries)
        index = _count(slots + new, entries)  # slots+new
        if sinks:  # those not yet there are among the new tokens
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
        """What it remembers of these texts of the batch, in this order; a text may come more than once."""
        kept = _selected(self.entries, self.visible, rows)
        return RollingCache(self.window, self.num_sinks, *kept, self.length)


def select_rows(memory: Any, rows: Int[Array, " rows"]) -> Any:
    """The KV cache or recurrent state of these texts of the batch, in this order; a text may come more than once."""
    if memory is None or hasattr(memory, "select"):
        return None if memory is None else memory.select(rows)
    return (
        _each(lambda x: x[rows], memory)
        if isinstance(memory[0], Array)
        else _each(lambda x: select_rows(x, rows), memory)
    )


def _each(function: Callable[..., Array], *entries: Any) -> Any:
    """The function of every array of the entries."""
    return type(entries[0])(*map(function, *entries))


def _selected(entries: Any, visible: Any, rows: Int[Array, " rows"]) -> tuple[Any, Any]:
    """The entries of these texts, and which of their tokens are there."""
    entries = None if entries is None else _each(lambda x: x[rows], entries)
    return entries, None if visible is None else visible[rows]


def _count(length: int, entries: Any) -> Int[Array, " length"]:
    """The indices 0, 1, 2, ... where the entries are."""
    return jnp.arange(length)


def _remembered(entries: Any, new: Any, slots: int) -> Any:
    """The entries of a cache; before the first call nothing, in so many slots."""
    if entries is not None:
        return entries
    return _each(lambda x: jnp.zeros((*x.shape[:-2], slots, x.shape[-1]), dtype=x.dtype), new)


def _shown(visible: Bool[Array, "batch length"] | None, entries: Any) -> Bool[Array, "batch length"]:
    """Which tokens are there: all if nobody says otherwise."""
    x = entries[0]
    if visible is not None:
        return visible
    return jnp.ones((x.shape[0], x.shape[-2]), dtype=jnp.bool_)


def _as_mask(visible: Bool[Array, "batch slots"] | None) -> Bool[Array, "batch 1 1 slots"] | None:
    """A mask that hides a token from all queries or from none."""
    return None if visible is None else visible[:, None, None]
