"""Queries and keys that know where they stand."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Placed(NamedTuple):
    """What a position scheme makes of queries and keys, ready to be scored.

    Attributes:
        query: `(batch, heads, query, head_dim)`, turned or shifted by position where the scheme does that.
        key: `(batch, kv_heads, key, head_dim)`, likewise.
        bias: what is added to the scaled scores, broadcast to `(batch, heads, query, key)`; None adds nothing.
    """

    query: Float[Tensor, "batch heads query head_dim"]
    key: Float[Tensor, "batch kv_heads key head_dim"]
    bias: Float[Tensor, "..."] | None
