"""How attention reads on: its arguments are checked, and what its cache remembers is recalled."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.caches import Cache, Recalled
from jax_attention.checks import check_key_mask, check_pairs, dtype_name
from jax_attention.positions.protocol import check_positions


def recall(
    cache: Cache | None,
    entries: Any,
    mask: Bool[Array, "..."] | None = None,
    positions: Int[Array, "..."] | None = None,
) -> Recalled:
    """What new tokens may attend to: those that are remembered, and themselves.

    Args:
        cache: what is remembered; None if these tokens are all there are.
        entries: of the new tokens, such as a `KeyValue`.
        mask: with a cache, which new tokens are there, `(batch, 1, 1, new)`; without one it is passed on.
        positions: passed on without a cache.

    Raises:
        ValueError: the cache holds something else than such entries.
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
    """Raise unless the arguments of a self-attention's call fit its input, and its cache.

    Args:
        x, mask, positions, dropout_keep, cache: the arguments.
        position: the scheme that reads `positions`.
        num_heads: heads of the weights; None if they have no axis for it.
        is_causal: whether no token sees what comes after it.
        window: how many keys a token sees; None for all.
        num_sinks: how many of the first keys it sees besides.
        name: what a message calls the mask.
    """
    if cache is None:
        check_pairs(x, x, mask, dropout_keep, num_heads, name=name)
        check_positions("positions", positions, x, position)
        return
    if not is_causal:
        raise ValueError(
            "cache needs is_causal=True: what sees later tokens cannot be read step by step, got is_causal=False"
        )
    for name, given in (("positions", positions), ("dropout_keep", dropout_keep)):
        if given is not None:
            raise ValueError(f"{name} must be None with a cache, got shape {tuple(given.shape)}")
    num_axes = getattr(position, "num_axes", None)
    if num_axes is not None:
        raise ValueError(
            f"cache counts places along one axis, got a position scheme with num_axes={num_axes}"
        )
    batch, length = x.shape[:2]
    check_key_mask(mask, batch, length)
    if cache.entries is not None and cache.entries[0].shape[0] != batch:
        raise ValueError(f"cache must hold {batch} sequences as x does, got {cache.entries[0].shape[0]}")
    cache.check(length, window, num_sinks)


def _kind(x: Float[Array, "... length dim"]) -> str:
    """Dtype and shape of an array, but for its length."""
    return f"{dtype_name(x)} ({', '.join(map(str, x.shape[:-2]))}, length, {x.shape[-1]})"
