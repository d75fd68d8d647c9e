"""Recurrent states of linear attention, and tokens that are masked out of them."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arrays import einsum
from torch_attention.checks import check_key_mask, check_sequence, check_state
from torch_attention.ops import at_least_float32, scan


class MemoryState(NamedTuple):
    """What a recurrent layer remembers of all it has read, where that is one matrix a head.

    Attributes:
        memory: `(batch, heads, key_dim, value_dim)`, in at least float32.
    """

    memory: Float[Tensor, "batch heads key_dim value_dim"]


def first_memory(
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    state: Float[Tensor, "batch heads key_dim value_dim"] | None,
) -> Float[Tensor, "batch heads key_dim value_dim"]:
    """The state, or zeros, in at least float32."""
    wide = at_least_float32(key).dtype
    shape = (*key.shape[:2], key.shape[-1], value.shape[-1])
    return torch.zeros(shape, dtype=wide, device=key.device) if state is None else state.to(wide)


def check_read(
    x: Float[Tensor, "..."],
    dim: int,
    mask: Bool[Tensor, "..."] | None,
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
    memory: Float[Tensor, "batch heads key_dim value_dim"],
    read: Float[Tensor, "chunks batch heads size key_dim"],
    written: Float[Tensor, "chunks batch heads size key_dim"],
    scores: Float[Tensor, "chunks batch heads size size"],
    value: Float[Tensor, "chunks batch heads size value_dim"],
    decay: Float[Tensor, "chunks batch heads #key_dim 1"],
) -> tuple[
    Float[Tensor, "batch heads key_dim value_dim"], Float[Tensor, "chunks batch heads size value_dim"]
]:
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

    def step(memory: Tensor, chunk: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
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
    x: Float[Tensor, "batch heads length dim"],
    mask: Bool[Tensor, "#batch 1 1 length"] | None,
    hidden: float = 0.0,
) -> Float[Tensor, "batch heads length dim"]:
    """`hidden` in place of every feature of the tokens that are masked."""
    return x if mask is None else torch.where(mask.swapaxes(-1, -2), x, hidden)
