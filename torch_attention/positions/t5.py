r"""Relative position bias of T5: a learned bias per head and distance bucket (Raffel et al. 2020).

$$ s_{ij} = q_i^\top k_j + b_{h,\,\mathrm{bucket}(j - i)} $$

Small distances have a bucket each. Larger ones share buckets whose width grows geometrically up to `max_distance`; all
distances beyond share the last bucket. T5 does not divide by sqrt(d): use an attention class with `scale=1.0`.

| symbol | argument        |                                                                           |
|--------|-----------------|---------------------------------------------------------------------------|
| b      | `num_buckets`   | `bias_embedding`, `(num_buckets, num_heads)`                              |
| bucket | `bidirectional` | half of the buckets for later keys; otherwise their distance counts as 0  |
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_divisible, check_positive
from torch_attention.layers import Factory, embedding
from torch_attention.ops import Placed
from torch_attention.positions.protocol import check_heads, distances, look_up


@checked
def t5_bucket(distance: int, *, num_buckets: int, max_distance: int, bidirectional: bool) -> int:
    """Bucket of a distance j - i from query to key.

    With n buckets per side, distances below e = n // 2 have a bucket each, and x >= e has bucket
    e + floor((n - e) log(x / e) / log(max_distance / e)), at most n - 1. The floor is computed in integers, because a
    rounded logarithm could cross an integer.
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    first = side if bidirectional and distance > 0 else 0
    apart = abs(distance) if bidirectional else max(-distance, 0)
    exact, wide = side // 2, side - side // 2
    if apart < exact:
        return first + apart
    step = int(wide * math.log(apart / exact) / math.log(max_distance / exact))  # may be off by one
    reached = sum(apart**wide * exact**s >= max_distance**s * exact**wide for s in (step, step + 1))
    return first + min(exact + step - 1 + reached, side - 1)


@checked
class T5Bias(nn.Module):
    """T5 relative position bias: adds a learned bias per head and distance bucket to the scores (Raffel et al. 2020).

    Args:
        num_heads: number of query heads.
        num_buckets: number of distance buckets.
        max_distance: distance from which on all distances share the last bucket.
        bidirectional: whether later keys have buckets of their own (encoders); False for causal attention.

    Raises:
        ValueError: too few buckets, or a `max_distance` too small for the buckets.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(num_heads=num_heads, num_buckets=num_buckets)
        check_divisible(num_buckets=num_buckets, sides=2 if bidirectional else 1)
        exact = num_buckets // (4 if bidirectional else 2)
        if exact < 1 or max_distance <= exact:
            raise ValueError(
                f"max_distance must be above {exact}, the distances with a bucket of their own, and these at "
                f"least 1, got max_distance={max_distance} and num_buckets={num_buckets}"
            )
        factory = Factory(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.buckets = tuple(
            t5_bucket(
                distance, num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional
            )
            for distance in range(-max_distance, max_distance + 1)
        )
        self.bias_embedding = embedding(num_buckets, num_heads, **factory)

    def forward(
        self,
        query: Float[Tensor, "batch heads query head_dim"],
        key: Float[Tensor, "batch kv_heads key head_dim"],
        query_positions: Int[Tensor, "..."] | None = None,
        key_positions: Int[Tensor, "..."] | None = None,
    ) -> Placed:
        """Return queries and keys unchanged, with the bias; arguments as in `place`.

        Raises:
            ValueError: the number of query heads is not `num_heads`.
        """
        check_heads(query, key, num_heads=self.num_heads)
        distance = distances(query, key, query_positions, key_positions)[:, 0]  # 1|batch query key
        bias = self.bias_embedding(look_up(distance, self.buckets))  # 1|batch query key heads
        return Placed(query, key, rearrange(bias, "batch query key heads -> batch heads query key"))


def main() -> None:
    """Print the buckets of some distances, and attention weights with the bias and without 1 / sqrt(d)."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.self_attention import MultiHeadSelfAttention

    words = ["one", "two", "three", "four"]
    bias = T5Bias(2, num_buckets=8, max_distance=16)
    print("buckets of -16 to 16:", *bias.buckets)
    attention = fill(MultiHeadSelfAttention(embed_dim=6, num_heads=2, position=bias, scale=1.0))
    show("MultiHeadSelfAttention with T5Bias", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
