"""Embeddings of the buckets of signed distances, which the layers of a model share (He et al. 2021)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_divisible, check_positive
from torch_attention.layers import Factory, embedding
from torch_attention.norms import layer_norm, normalise
from torch_attention.positions.protocol import distances, look_up


@checked
def deberta_bucket(distance: int, *, num_buckets: int, max_distance: int) -> int:
    """Signed bucket of a distance i - j (He et al. 2021, the code of DeBERTa-v2).

    With m = num_buckets // 2, distances up to m have a bucket each, and x > m has bucket
    m + ceil((m - 1) log(x / m) / log((max_distance - 1) / m)). The ceiling is computed in integers, because a rounded
    logarithm could cross an integer.
    """
    middle, apart, last = num_buckets // 2, abs(distance), max_distance - 1
    if apart <= middle:
        return distance
    step = math.ceil((middle - 1) * math.log(apart / middle) / math.log(last / middle))  # may be off by one
    contained = sum(
        apart ** (middle - 1) * middle**s <= last**s * middle ** (middle - 1) for s in (step - 1, step)
    )
    return (middle + step + 1 - contained) * (1 if distance > 0 else -1)


@checked
def distance_rows(num_buckets: int | None, max_distance: int) -> tuple[int, ...]:
    """Row of the distance embeddings for each j - i from -max_distance to max_distance.

    Args:
        num_buckets: number of distance buckets per direction; None for `max_distance`, a bucket of each distance.
        max_distance: distance at which the buckets end.

    Raises:
        ValueError: sizes do not match.
    """
    if num_buckets is None:
        check_positive(max_distance=max_distance)
        return tuple(
            min(max_distance - apart, 2 * max_distance - 1)
            for apart in range(-max_distance, max_distance + 1)
        )
    check_divisible(num_buckets=num_buckets, sides=2)
    if num_buckets < 4 or max_distance <= num_buckets // 2 + 1:
        raise ValueError(
            "num_buckets must be at least 4 and max_distance above num_buckets / 2 + 1, "
            f"got num_buckets={num_buckets} and max_distance={max_distance}"
        )
    buckets = [
        deberta_bucket(-distance, num_buckets=num_buckets, max_distance=max_distance)
        for distance in range(-max_distance, max_distance + 1)
    ]
    return tuple(min(max(bucket + num_buckets, 0), 2 * num_buckets - 1) for bucket in buckets)


class DistanceRows(NamedTuple):
    """Embeddings of distance buckets, and the row of each pair of positions.

    Attributes:
        table: embeddings, `(rows, embed_dim)`.
        row: row of each query and key, `(1|batch, 1, query, key)`.
    """

    table: Float[Tensor, "rows embed"]
    row: Int[Tensor, "... 1 query key"]


@checked
class DistanceEmbedding(nn.Module):
    """Embeddings of distance buckets that the layers of a model share (He et al. 2021).

    It is the `position` of a model whose layers are `DisentangledSelfAttention` with `shares_embedding`.

    Args:
        embed_dim: features of input and output of the layers.
        num_buckets: number of distance buckets per direction; even, at least 4; None for a bucket of each distance.
        max_distance: distance at which the buckets end; above `num_buckets / 2 + 1`.
        norm_eps: epsilon of a layer norm of the embeddings (DeBERTa-v2); None for no norm.

    Raises:
        ValueError: sizes do not match.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_buckets: int | None = 256,
        max_distance: int = 512,
        norm_eps: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.row_of = distance_rows(num_buckets, max_distance)
        self.rows = tuple(range(2 * (max_distance if num_buckets is None else num_buckets)))
        self.relative_embedding = embedding(len(self.rows), embed_dim, **factory)
        self.norm = None if norm_eps is None else layer_norm(embed_dim, eps=norm_eps, **factory)

    def forward(
        self,
        query: Float[Tensor, "batch heads query head_dim"],
        key: Float[Tensor, "batch heads key head_dim"],
        query_positions: Int[Tensor, "..."] | None = None,
        key_positions: Int[Tensor, "..."] | None = None,
    ) -> DistanceRows:
        """Look up the rows of all pairs; arguments as in `place`."""
        table = self.relative_embedding(torch.as_tensor(self.rows, device=query.device))  # rows embed
        if self.norm is not None:
            table = normalise(self.norm, table)  # rows embed
        return DistanceRows(
            table, look_up(distances(query, key, query_positions, key_positions), self.row_of)
        )
