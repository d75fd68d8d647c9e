"""A layer's mixer, attention or a memory, called alike: it reads on from what is remembered, and gives what to keep."""

from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.caches import Cache, GrowingCache, StaticCache
from jax_attention.models.building import build
from jax_attention.models.description import Part
from jax_attention.models.kinds import call_arguments
from jax_attention.outputs import CachedOutput


def build_mixer(part: Part, embed_dim: int, factory: dict[str, Any]) -> Any:
    """The mixer of a language model: no token sees what comes after it.

    Raises:
        ValueError: a class that sees later tokens, or that mixes no sequence.
    """
    mixer = build(part, {"embed_dim": embed_dim, "is_causal": True}, factory)
    if not isinstance(mixer, nnx.Module) or "x" not in call_arguments(mixer):
        raise ValueError(f"the mixer of a layer must be a class that mixes one sequence, got {part.name}")
    if not getattr(mixer, "is_causal", bool({"cache", "state"} & call_arguments(mixer))):
        raise ValueError(
            f"the mixer of a language model must see no later token, got {part.name}, which sees them all"
        )
    return mixer


def mix(
    mixer: Any,
    x: Float[Array, "batch length embed"],
    mask: Bool[Array, "..."] | None,
    *,
    names: frozenset[str],
    positions: Int[Array, "..."] | None,
    memory: Any,
    reads_on: bool,
    need_weights: bool,
) -> CachedOutput:
    """Call a mixer of any kind.

    Args:
        mixer: attention, which takes a cache, or a memory, which takes a state.
        x: the sequence; with what is remembered, its new tokens alone.
        mask: as the mixer takes it.
        names: of the arguments that it is called with.
        positions: where the tokens stand, for attention without a cache.
        memory: the cache or the state to go on from; a state is None at first.
        reads_on: whether the call reads on, so that what it remembers matters.
        need_weights: whether to return the weights.

    Returns:
        The output, what to go on from or None, and the weights or None.

    Raises:
        NotImplementedError: the mixer cannot read on.
    """
    if "state" in names:
        read = mixer(x, mask, state=memory, need_weights=need_weights)
        return CachedOutput(read.output, read.state if reads_on else None, read.weights)
    given: dict[str, Any] = {"need_weights": need_weights} if "need_weights" in names else {}
    if reads_on:
        check_reads_on(mixer)
        given["cache"] = memory
    elif "positions" in names and getattr(mixer, "position", None) is not None:
        given["positions"] = positions
    read = mixer(x, mask, **given)
    return CachedOutput(read.output, getattr(read, "cache", None), read.weights)


def first_memory(mixer: Any, capacity: int | None) -> Cache | None:
    """What a mixer goes on from that has read nothing.

    Args:
        mixer: attention or a memory.
        capacity: how many tokens will be read; None if nobody knows.

    Raises:
        NotImplementedError: the mixer cannot read on.
    """
    if "state" in call_arguments(mixer):
        return None
    check_reads_on(mixer)
    return GrowingCache() if capacity is None else StaticCache(capacity)


def check_memory(mixer: Any, memory: Any) -> None:
    """Raise TypeError unless a mixer can go on from a cache or state of that kind."""
    name = type(mixer).__name__
    if "state" in call_arguments(mixer):
        if isinstance(memory, Cache):
            raise TypeError(f"caches must hold a state for {name}, or None at first, got {_kind(memory)}")
    elif not isinstance(memory, Cache):
        raise TypeError(f"caches must hold a cache for {name}, got {_kind(memory)}")


def check_reads_on(mixer: Any) -> None:
    """Raise NotImplementedError, with the reason, unless a mixer can read on from what it remembers."""
    if not {"cache", "state"} & call_arguments(mixer):
        reason = getattr(mixer, "no_decoding", "it takes no cache.")
        raise NotImplementedError(f"{type(mixer).__name__} cannot read on from a cache: {reason}")


def _kind(memory: Any) -> str:
    return "None" if memory is None else f"a {type(memory).__name__}"
