"""Recurrent states of linear attention, and tokens that are masked out of them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.arrays import einsum
from jax_attention.checks import check_key_mask, check_sequence, check_state
from jax_attention.ops import at_least_float32, scan


class MemoryState(NamedTuple):
    """What a recurrent layer remembers of all it has read, where that is one matrix a head.

    Attributes:
        memory: `(batch, heads, key_dim, value_dim)`, in at least float32.
    """

    memory: Float[Array, "batch heads key_dim value_dim"]


def first_memory(
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    state: Float[Array, "batch heads key_dim value_dim"] | None,
) -> Float[Array, "batch heads key_dim value_dim"]:
    """The state, or zeros, in at least float32."""
    wide = at_least_float32(key).dtype
    shape = (*key.shape[:2], key.shape[-1], value.shape[-1])
    return jnp.zeros(shape, dtype=wide) if state is None else state.astype(wide)


def check_read(
    x: Float[Array, "..."],
    dim: int,
    mask: Bool[Array, "..."] | None,
    state: Any,
    *shapes: tuple[int, ...],
) -> None:
    """Raise unless `x` is a sequence, `mask` hides tokens of it, and `state` fits.

    Args:
        x: input sequence, `(batch, length, embed_dim)`.
        dim: how many features it must have.
        mask: which tokens are there.
        state: recurrent state of the tokens before.
        shapes: of each array of the state, for one element of the batch.
    """
    check_sequence("x", x, dim)
    batch, length, _ = x.shape
    check_key_mask(mask, batch, length)
    if state is not None:
        for name, array, shape in zip(state._fields, state, shapes, strict=True):
            check_state(f"state.{name}", array, (batch, *shape))


def scan_faded_chunks(
    memory: Float[Array, "batch heads key_dim value_dim"],
    read: Float[Array, "chunks batch heads size key_dim"],
    written: Float[Array, "chunks batch heads size key_dim"],
    scores: Float[Array, "chunks batch heads size size"],
    value: Float[Array, "chunks batch heads size value_dim"],
    decay: Float[Array, "chunks batch heads #key_dim 1"],
) -> tuple[Float[Array, "batch heads key_dim value_dim"], Float[Array, "chunks batch heads size value_dim"]]:
    """The recurrence from chunk to chunk, for decays of any kind.

    Args:
        memory: before the first chunk.
        read: queries, as what is left of the memory at the start of the chunk meets them.
        written: keys, as they will be left at the end of the chunk.
        scores: queries times the keys before them, after their decay.
        value: values, whose weighted mean is the output.
        decay: what is left of the memory after the chunk.

    Returns:
        The memory after the last chunk, and what was read.
    """

    def step(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        read, written, scores, value, decay = chunk
        output = einsum("bhqd,bhdv->bhqv", read, memory)  # batch heads size value_dim
        output = output + einsum("bhqk,bhkv->bhqv", scores, value)
        return decay * memory + einsum("bhkd,bhkv->bhdv", written, value), output

    return scan(step, memory, (read, written, scores, value, decay))


def check_one_way(state: Any, is_causal: bool) -> None:
    """Raise ValueError if a bidirectional layer is given a state."""
    if state is not None and not is_causal:
        raise ValueError(
            "state needs is_causal=True: what sees later keys cannot be read step by step, got is_causal=False"
        )


def hide(
    x: Float[Array, "batch heads length dim"],
    mask: Bool[Array, "#batch 1 1 length"] | None,
    hidden: float = 0.0,
) -> Float[Array, "batch heads length dim"]:
    """`hidden` in place of every feature of the tokens that are masked."""
    return x if mask is None else jnp.where(mask.swapaxes(-1, -2), x, hidden)
