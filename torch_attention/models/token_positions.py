"""Positions of tokens in a model with absolute position embeddings."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from torch_attention.caches import Cache
from torch_attention.ops.arrays import known_values
from torch_attention.positions.protocol import check_shape


def places(
    tokens: Int[Tensor, "batch length"],
    positions: Int[Tensor, "..."] | None,
    caches: tuple[Any, ...] | None,
    max_len: int | None,
) -> Int[Tensor, "..."]:
    """Positions of tokens: as given, or continued from the length of the caches.

    Raises:
        ValueError: the shape does not match the tokens, a position has no embedding, or `positions` is None and no
            cache counts tokens.
    """
    check_shape("positions", positions, tokens)
    if positions is None:
        read = 0 if caches is None else _tokens_read(caches)
        positions = torch.arange(tokens.shape[1], device=tokens.device) + read
    if max_len is None:
        return positions
    known = known_values(positions)
    if known is not None and known.size and not 0 <= known.min() <= known.max() < max_len:
        raise ValueError(
            f"tokens must have positions from 0 to below max_len={max_len}, "
            f"got {known.min()} to {known.max()}"
        )
    return positions


def with_types(
    tokens: Int[Tensor, "batch length"],
    positions: Int[Tensor, "..."] | None,
    token_types: Int[Tensor, "batch length"] | None,
    num_types: int | None,
) -> Int[Tensor, "..."] | None:
    """Positions with the token type as second coordinate, if `num_types` is given.

    Args:
        tokens: token ids.
        positions: positions of the tokens, `(length)` or `(batch, length)`; None for 0, 1, 2, and so on.
        token_types: token type ids; None for all 0.
        num_types: number of token types that are compared; None for none.

    Returns:
        Positions `(batch, length, 2)`; without `num_types`, or with neither positions nor types, as given.
    """
    if num_types is None or (positions is None and token_types is None):
        return positions
    counted = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
    types = torch.zeros_like(tokens) if token_types is None else token_types  # batch length
    where = torch.broadcast_to(counted, tokens.shape)  # batch length
    return torch.stack([where, types.to(where.dtype)], dim=-1)  # batch length axes


def has_absolute_positions(config: Any) -> bool:
    """Whether a model adds a learned or sinusoidal embedding of each position to its token embeddings."""
    return any(getattr(config, name, None) is not None for name in ("max_len", "embedding_position"))


def _tokens_read(caches: tuple[Any, ...]) -> Any:
    """Number of tokens in the caches; recurrent states do not count tokens."""
    if all(each is None for each in caches):  # states of recurrent layers before the first token
        return 0
    for each in caches:
        if isinstance(each, Cache):
            return each.length
    raise ValueError("positions must be given where no layer has a cache that counts them, got None")
