"""Recurrent states of linear attention, and the masking of their tokens."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arrays import einsum
from torch_attention.checks import check_key_mask, check_sequence, check_state
from torch_attention.ops import at_least_float32, scan


class MemoryState(NamedTuple):
    """Recurrent state that consists of one matrix per head.

    Attributes:
        memory: state matrices, `(batch, heads, key_dim, value_dim)`, in at least float32.
    """

    memory: Float[Tensor, "batch heads key_dim value_dim"]


def first_memory(
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    state: Float[Tensor, "batch heads key_dim value_dim"] | None,
) -> Float[Tensor, "batch heads key_dim value_dim"]:
    """Initial state in at least float32: the given one, or zeros."""
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
    """Raise unless `x` is a sequence, and `mask` and `state` fit it.

    Args:
        x: input sequence, `(batch, length, embed_dim)`.
        dim: required number of features.
        mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask.
        state: recurrent state of the earlier tokens; None for an empty one.
        shapes: shape of each array of the state, without the batch axis.
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
    *,
    length: int,
) -> tuple[
    Float[Tensor, "batch heads key_dim value_dim"], Float[Tensor, "chunks batch heads size value_dim"]
]:
    """Scan a decaying linear recurrence over chunks, with a decay per head or per channel.

    Args:
        memory: state before the first chunk.
        read: queries, times the decay since the start of the chunk.
        written: keys, times the decay until the end of the chunk.
        scores: products of queries and earlier keys, times the decay between them.
        value: values, `(chunks, batch, heads, size, value_dim)`.
        decay: decay of the state over the chunk.
        length: length of the sequence.

    Returns:
        The state after the last chunk, and the outputs.
    """

    def step(memory: Tensor, chunk: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        read, written, scores, value, decay = chunk
        output = einsum("bhqd,bhdv->bhqv", read, memory)  # batch heads size value_dim
        output = output + einsum("bhqk,bhkv->bhqv", scores, value)
        return decay * memory + einsum("bhkd,bhkv->bhdv", written, value), output

    return scan(step, memory, (read, written, scores, value, decay), length=length)


def check_one_way(state: Any, is_causal: bool) -> None:
    """Raise ValueError if a bidirectional layer is given a state."""
    if state is not None and not is_causal:
        raise ValueError(
            "state needs is_causal=True: bidirectional attention has no recurrent form, got is_causal=False"
        )


def hide(
    x: Float[Tensor, "batch heads length dim"],
    mask: Bool[Tensor, "#batch 1 1 length"] | None,
    hidden: float = 0.0,
) -> Float[Tensor, "batch heads length dim"]:
    """Replace every feature of masked tokens by `hidden`."""
    return x if mask is None else torch.where(mask.swapaxes(-1, -2), x, hidden)
