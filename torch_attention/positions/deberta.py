r"""Disentangled attention: content-to-content, content-to-position and position-to-content scores (He et al. 2021).

$$ s_{ij} = \left[ q_i^\top k_j + q_i^\top K^r_{\delta(i, j)} + k_j^\top Q^r_{\delta(i, j)} \right] / \sqrt{3 d} $$

One change from `MultiHeadSelfAttention`: every distance bucket has an embedding as wide as a token's, projected to
queries Q^r and keys K^r. The sum of three kinds of scores is scaled by 1 / sqrt(3d).

The paper writes δ(j, i) in the third term. Its authors' code, and so all weights trained with it, use the row of
δ(i, j) there too, and so does this module.

| symbol   | argument        |                                                                                 |
|----------|-----------------|---------------------------------------------------------------------------------|
| δ(i, j)  | `num_buckets`   | bucket of i - j, plus `num_buckets`, clipped to the `2 num_buckets` rows        |
|          | `max_distance`  | distance at which the buckets end, see `deberta_bucket`                         |
| K^r, Q^r |                 | `k_proj` and `q_proj` of `relative_embedding`, or `relative_k_proj`, `..._q_proj` |
| d        | `num_heads`     | `embed_dim / num_heads`                                                         |
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_divisible, check_pairs, check_sequence
from torch_attention.layers import Dropout, Factory, embedding, linear
from torch_attention.ops import attend, merge_heads, split_heads
from torch_attention.outputs import AttentionOutput
from torch_attention.positions.protocol import check_shape, distances, look_up
from torch_attention.positions.shaw import relative_scores


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
class DisentangledSelfAttention(nn.Module):
    """DeBERTa's disentangled multi-head self-attention, with relative position embeddings (He et al. 2021).

    Args:
        embed_dim: features of input, output and distance embeddings.
        num_heads: number of heads; must divide `embed_dim`.
        num_buckets: number of distance buckets per direction; even, at least 4.
        max_distance: distance at which the buckets end; above `num_buckets / 2 + 1`.
        share_projections: whether distance embeddings use the content projections (DeBERTa-v2, v3), or projections of
            their own (DeBERTa, the paper).
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes do not match, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_buckets: int = 256,
        max_distance: int = 512,
        share_projections: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_divisible(num_buckets=num_buckets, sides=2)
        if num_buckets < 4 or max_distance <= num_buckets // 2 + 1:
            raise ValueError(
                "num_buckets must be at least 4 and max_distance above num_buckets / 2 + 1, "
                f"got num_buckets={num_buckets} and max_distance={max_distance}"
            )
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.relative_embedding = embedding(2 * num_buckets, embed_dim, **factory)
        own = not share_projections
        self.relative_q_proj = linear(embed_dim, embed_dim, bias=bias, **factory) if own else None
        self.relative_k_proj = linear(embed_dim, embed_dim, bias=bias, **factory) if own else None
        self.rows = tuple(range(2 * num_buckets))
        # Indexed by j - i, from -max_distance to max_distance.
        buckets = [
            deberta_bucket(-distance, num_buckets=num_buckets, max_distance=max_distance)
            for distance in range(-max_distance, max_distance + 1)
        ]
        self.row_of = tuple(min(max(bucket + num_buckets, 0), 2 * num_buckets - 1) for bucket in buckets)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Apply disentangled self-attention; arguments, result and errors as in `MultiHeadSelfAttention`."""
        check_sequence("x", x, self.embed_dim)
        check_pairs(x, x, mask, dropout_keep, self.num_heads)
        check_shape("positions", positions, x)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        scale = (3 * self.head_dim) ** -0.5
        heads, weights = attend(
            query,
            key,
            value,
            scale * self._distance_scores(query, key, positions),
            mask,
            scale=scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights)

    def _distance_scores(
        self,
        query: Float[Tensor, "batch heads length head_dim"],
        key: Float[Tensor, "batch heads length head_dim"],
        positions: Int[Tensor, "..."] | None,
    ) -> Float[Tensor, "batch heads length length"]:
        table = self.relative_embedding(torch.as_tensor(self.rows, device=query.device))  # rows embed
        by_query = self.q_proj(table) if self.relative_q_proj is None else self.relative_q_proj(table)
        by_key = self.k_proj(table) if self.relative_k_proj is None else self.relative_k_proj(table)
        by_query = rearrange(by_query, "rows (heads d) -> heads rows d", d=self.head_dim)
        by_key = rearrange(by_key, "rows (heads d) -> heads rows d", d=self.head_dim)
        row = look_up(distances(query, key, positions, positions), self.row_of)  # 1|batch 1 query key
        content_to_position = relative_scores(query, by_key, row)  # batch heads query key
        position_to_content = relative_scores(key, by_query, row.swapaxes(-1, -2))  # batch heads key query
        return content_to_position + position_to_content.swapaxes(-1, -2)


def main() -> None:
    """Print the buckets of DeBERTa for some distances, and the attention weights of a sentence."""
    from torch_attention.demonstration import draw, fill, show

    far = (1, 2, 64, 128, 129, 200, 300, 511)
    print(
        "buckets:", *(f"{x}: {deberta_bucket(x, num_buckets=256, max_distance=512)}" for x in far), sep="  "
    )
    words = ["one", "two", "three"]
    attention = fill(DisentangledSelfAttention(embed_dim=6, num_heads=2, num_buckets=4, max_distance=8))
    show("DisentangledSelfAttention", attention(draw(1, 3, 6)), words, words)


if __name__ == "__main__":
    main()
