"""The interface between attention and positional encodings.

A positional encoding (in error messages: a position scheme) is a module that any dot-product class accepts as
`position`. It is called with queries, keys and their positions, and returns them rotated (RoPE) or shifted
(Transformer-XL), or unchanged with a bias of the scores (ALiBi, T5, Shaw).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.arrays import with_rank
from torch_attention.checks import has_size
from torch_attention.ops import Placed


def place(
    position: nn.Module | None,
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch kv_heads key head_dim"],
    query_positions: Int[Tensor, "..."] | None = None,
    key_positions: Int[Tensor, "..."] | None = None,
) -> Placed:
    """Apply a positional encoding to queries and keys; None returns them unchanged.

    Args:
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        query: queries, `(batch, heads, query, head_dim)`.
        key: keys, `(batch, kv_heads, key, head_dim)`.
        query_positions: positions of the queries, `(query,)` or `(batch, query)`, with a last axis of coordinates for
            encodings with several; None counts from 0.
        key_positions: positions of the keys, likewise.
    """
    if position is None:
        return Placed(query, key, None)
    return position(query, key, query_positions, key_positions)


def check_scheme(position: nn.Module | None, **sizes: int | None) -> None:
    """Raise ValueError unless a positional encoding is made for these sizes; a size of None accepts any."""
    for name, size in sizes.items():
        needed = getattr(position, name, None)
        if size is not None and not has_size(size, needed):
            raise ValueError(f"position must be made for {name}={size}, got one for {name}={needed}")


def check_positions(
    name: str,
    positions: Int[Tensor, "..."] | None,
    x: Float[Tensor, "batch length ..."],
    position: nn.Module | None,
) -> None:
    """Raise unless `positions` is None, or matches the elements of `x` and there is a positional encoding.

    For an encoding with several coordinates, its attribute `num_axes` is the size of the last axis of `positions`.
    """
    if positions is None:
        return
    if position is None:
        raise ValueError(f"{name} need a position scheme that reads them, got position=None")
    num_axes = getattr(position, "num_axes", None)
    check_shape(name, positions, x, *(() if num_axes is None else (num_axes,)))


def check_shape(
    name: str, positions: Int[Tensor, "..."] | None, x: Shaped[Tensor, "batch length ..."], *coordinates: int
) -> None:
    """Raise ValueError unless `positions` has shape `(length, *coordinates)` or `(batch, length, *coordinates)`."""
    batch, length = x.shape[:2]
    shapes = ((length, *coordinates), (batch, length, *coordinates))
    if positions is not None and not any(tuple(positions.shape) == shape for shape in shapes):
        raise ValueError(f"{name} must have shape {shapes[0]} or {shapes[1]}, got {tuple(positions.shape)}")


def positions_or_count(
    positions: Int[Tensor, "..."] | None, length: int, *, device: torch.device | str | None
) -> Int[Tensor, "..."]:
    """Return the given positions; for None, 0, 1, 2, ..."""
    return torch.arange(length, device=device) if positions is None else positions


def distances(
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch kv_heads key head_dim"],
    query_positions: Int[Tensor, "..."] | None = None,
    key_positions: Int[Tensor, "..."] | None = None,
) -> Int[Tensor, "... 1 query key"]:
    """Distance j - i from each query to each key, negative for earlier keys: `(1|batch, 1, query, key)`."""
    query_positions = positions_or_count(query_positions, query.shape[-2], device=query.device)
    key_positions = positions_or_count(key_positions, key.shape[-2], device=key.device)
    rank = max(query_positions.ndim, key_positions.ndim)
    query_positions, key_positions = with_rank(query_positions, rank), with_rank(key_positions, rank)
    apart = key_positions[..., None, :] - query_positions[..., None]  # query key, or batch query key
    return apart[None, None] if apart.ndim == 2 else apart[:, None]


def look_up(distance: Int[Tensor, "*axes"], table: Sequence[int]) -> Int[Tensor, "*axes"]:
    """Look up distances in a table with entries for -n to n; distances beyond are clipped."""
    reach = len(table) // 2
    return torch.as_tensor(table, device=distance.device)[torch.clip(distance, -reach, reach) + reach]


def check_heads(
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch kv_heads key head_dim"],
    *,
    num_heads: int | None = None,
    head_dim: int | None = None,
) -> None:
    """Raise ValueError unless the queries have `num_heads`, and queries and keys `head_dim`; None accepts any."""
    if not has_size(query.shape[-3], num_heads):
        raise ValueError(f"query must have num_heads={num_heads}, got {query.shape[-3]}")
    for name, x in (("query", query), ("key", key)):
        if not has_size(x.shape[-1], head_dim):
            raise ValueError(f"{name} must have head_dim={head_dim}, got {x.shape[-1]}")
