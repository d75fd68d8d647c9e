"""A common call for all token mixers: attention with a KV cache, or a recurrent layer with a state."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.caches import Cache, GrowingCache, StaticCache
from torch_attention.models.module_classes import call_arguments
from torch_attention.ops.arrays import known_values
from torch_attention.outputs import CachedOutput


def mix(
    mixer: Any,
    x: Float[Tensor, "batch *places embed"],
    mask: Bool[Tensor, "..."] | None,
    *,
    names: frozenset[str],
    positions: Int[Tensor, "..."] | None,
    position: Any,
    memory: Any,
    reads_on: bool,
    need_weights: bool,
    shared: Any = None,
    shares: bool = False,
) -> CachedOutput:
    """Call a token mixer of any kind.

    Args:
        mixer: attention, which takes a KV cache, or a recurrent layer, which takes a state; or attention over a grid.
        x: input sequence, `(batch, length, embed_dim)`, in incremental decoding only the new tokens; or input grid,
            `(batch, height, width, embed_dim)`.
        mask: mask in the form that the mixer takes; None for no mask.
        names: names of the arguments of the mixer's call.
        positions: positions of the tokens, for attention without a cache; None for 0, 1, 2, and so on.
        position: positional encoding that all layers share; None for the mixer's own.
        memory: KV cache or recurrent state; a state is None before the first token.
        reads_on: whether the call is a step of incremental decoding, which returns the new cache or state.
        need_weights: whether to return the attention weights.
        shared: keys and values of an earlier layer, for a mixer without its own; None for its own.
        shares: whether to return the keys and values, for later layers, instead of the new cache.

    Returns:
        The output; the new cache or state, or None; and the attention weights, or None.

    Raises:
        NotImplementedError: the mixer has no incremental decoding.
    """
    if "state" in names:
        where = {"positions": positions} if "positions" in names else {}
        read = mixer(x, mask, state=memory, need_weights=need_weights, **where)
        return CachedOutput(read.output, read.state if reads_on else None, read.weights)
    given: dict[str, Any] = {"need_weights": need_weights} if "need_weights" in names else {}
    if position is not None:
        given["position"] = position
    if shared is not None:
        given["shared"] = shared
    elif reads_on:
        check_reads_on(mixer)
        given["cache"] = memory
    elif "positions" in names and (position is not None or getattr(mixer, "position", None) is not None):
        given["positions"] = positions
    inputs = (x, mask) if "mask" in names else (x,)
    read, found = mixer.read(*inputs, **given) if shares else (mixer(*inputs, **given), None)
    if read.output.shape[1] != x.shape[1]:
        name = type(mixer).__name__
        raise ValueError(
            f"the mixer of a layer must return a vector for each of {x.shape[1]} positions, "
            f"got {read.output.shape[1]} from {name}"
        )
    cache = None if shared is not None else getattr(read, "cache", None)
    return CachedOutput(read.output, found if shares else cache, read.weights)


def first_memory(mixer: Any, capacity: int | None) -> Any:
    """Empty KV cache of a mixer; None without one, and for a recurrent layer, whose state starts as None.

    It is None, too, for attention to another layer's keys and values. Parallel mixers start with an empty cache.

    Args:
        mixer: attention, a recurrent layer, or None.
        capacity: number of tokens that the cache holds; None for a cache that grows.

    Raises:
        NotImplementedError: the mixer has no incremental decoding.
    """
    if hasattr(mixer, "start"):
        return mixer.start(capacity)
    if mixer is None or "state" in call_arguments(mixer) or getattr(mixer, "shares_kv", False):
        return None
    check_reads_on(mixer)
    return GrowingCache() if capacity is None else StaticCache(capacity)


def check_memory(mixer: Any, memory: Any) -> None:
    """Raise TypeError unless `memory` is a KV cache for attention, or a state or None for a recurrent layer."""
    name = type(mixer).__name__
    if mixer is None:
        if memory is not None:
            raise TypeError(f"caches must hold None for a layer without a mixer, got {_kind(memory)}")
    elif getattr(mixer, "shares_kv", False):
        if memory is not None:
            raise TypeError(f"caches must hold None for a {name} with shares_kv=True, got {_kind(memory)}")
    elif hasattr(mixer, "check_state"):
        mixer.check_state(memory)
    elif "state" in call_arguments(mixer):
        if isinstance(memory, Cache):
            raise TypeError(f"caches must hold a state for {name}, or None at first, got {_kind(memory)}")
    elif not isinstance(memory, Cache):
        raise TypeError(f"caches must hold a cache for {name}, got {_kind(memory)}")


def fixed_positions(mixer: Any) -> str | None:
    """The reason why the places of tokens matter to a mixer, not only their distances; None if they do not."""
    own = getattr(mixer, "fixed_positions", None)
    return getattr(getattr(mixer, "position", None), "fixed_positions", None) if own is None else own


def check_no_padding(layers: Any) -> None:
    """Raise NotImplementedError if a layer mixes by fixed positions, which left padding would shift."""
    for layer in layers:
        reason = fixed_positions(layer.attention)
        if reason is not None:
            raise NotImplementedError(
                f"{type(layer.attention).__name__} takes no padding in front of tokens that are read or written: "
                f"{reason}; give texts of equal length, or one by one"
            )


def check_shares_position(layers: Any) -> None:
    """Raise ValueError unless the mixers of all layers take a positional encoding that the layers share."""
    for layer in layers:
        if layer.attention is not None and "position" not in call_arguments(layer.attention):
            raise ValueError(
                "position must be None for a mixer that takes no positional encoding of the model, such as "
                f"{type(layer.attention).__name__}; give it to the mixer"
            )


def is_padded_in_front(mask: Bool[Tensor, "..."] | None) -> bool:
    """Whether a mask `(batch, 1, 1, length)` is known to mask a token in front of a real one."""
    known = None if mask is None or mask.shape[1:3] != (1, 1) else known_values(mask)
    return known is not None and bool((known[..., 1:] & ~known[..., :-1]).any())


def check_reads_on(mixer: Any) -> None:
    """Raise NotImplementedError, with the reason, unless a mixer has incremental decoding."""
    if not {"cache", "state"} & call_arguments(mixer):
        reason = getattr(mixer, "no_decoding", "it takes no cache.")
        raise NotImplementedError(f"{type(mixer).__name__} has no incremental decoding: {reason}")


def _kind(memory: Any) -> str:
    return "None" if memory is None else f"a {type(memory).__name__}"
