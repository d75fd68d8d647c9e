r"""XLNet's relative positions: Transformer-XL's, and scores of two tokens' segments (Yang et al. 2019, section 2.5).

$$ s_{ij} = \left[ (q_i + u)^\top k_j + (q_i + v)^\top W_R\, r_{i - j} + (q_i + b)^\top z_{ij} \right] / \sqrt{d} $$

One change from `TransformerXLEmbedding`: a third kind of scores. z is one learned vector per head where query and key
are in the same segment, such as a question and its answer, and another one where they are not. A position has two
coordinates, the place in the sequence and the number of the segment.

| symbol | argument or parameter | shape                                                                       |
|--------|-----------------------|-----------------------------------------------------------------------------|
| z      | `segment_vectors`     | `(2, num_heads, head_dim)`: the same segment, then another segment          |
| b      | `segment_bias`        | `(num_heads, head_dim)`                                                     |
| others |                       | as in `TransformerXLEmbedding`                                              |
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.layers import Factory, parameter
from torch_attention.ops import Placed, at_least_float32
from torch_attention.positions.protocol import distances
from torch_attention.positions.transformer_xl import TransformerXLEmbedding


@checked
def segment_scores(
    query: Float[Tensor, "batch heads query head_dim"],
    vectors: Float[Tensor, "two heads head_dim"],
    is_other: Int[Tensor, "... 1 query key"],
) -> Float[Tensor, "batch heads query key"]:
    """Compute q_i · z_ij, with the second vector where `is_other` is not 0."""
    both = einsum("bhqd,shd->bhqs", query, vectors)  # batch heads query two
    return torch.where(is_other != 0, both[..., 1:], both[..., :1])  # batch heads query key


@checked
class XLNetEmbedding(TransformerXLEmbedding):
    """XLNet's relative positions: separate scores for content, distance and segments (Yang et al. 2019, section 2.5).

    Args:
        embed_dim: features of the sinusoid of a distance; even.
        num_heads: number of query heads.
        head_dim: features of a head.
        scale: factor on the scores, equal to the scale of the attention class; `1 / sqrt(head_dim)` if None.

    Raises:
        ValueError: `embed_dim` is odd.
    """

    num_axes = 2

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        factory = Factory(device=device, dtype=dtype)
        super().__init__(embed_dim, num_heads, head_dim, scale=scale, **factory)
        self.segment_vectors = parameter(2, num_heads, head_dim, **factory)
        self.segment_bias = parameter(num_heads, head_dim, **factory)

    def forward(
        self,
        query: Float[Tensor, "batch heads query head_dim"],
        key: Float[Tensor, "batch kv_heads key head_dim"],
        query_positions: Int[Tensor, "..."] | None = None,
        key_positions: Int[Tensor, "..."] | None = None,
    ) -> Placed:
        """Add u to the queries, and return the distance and segment scores as bias.

        Args:
            query: queries, `(batch, heads, query, head_dim)`.
            key: keys, `(batch, kv_heads, key, head_dim)`.
            query_positions: place and segment of the queries, `(query, 2)` or `(batch, query, 2)`; None counts from 0
                in one segment.
            key_positions: place and segment of the keys, likewise. If both are None, the segment scores are left out:
                they are equal for all keys of one segment, so that a softmax does not depend on them.

        Raises:
            ValueError: the queries do not have `num_heads` heads, or the heads do not have `head_dim` features.
        """
        if query_positions is None and key_positions is None:
            return super().forward(query, key)
        places, segments = zip(
            _coordinates(query, query_positions), _coordinates(key, key_positions), strict=True
        )
        placed: Any = super().forward(query, key, *places)
        wide = at_least_float32(query)  # batch heads query head_dim
        asked = wide + self.segment_bias[...][None, :, None].to(wide.dtype)  # batch heads query head_dim
        apart = distances(query, key, *segments)  # 1|batch 1 query key
        scores = segment_scores(asked, self.segment_vectors[...].to(wide.dtype), apart)
        return Placed(placed.query, placed.key, placed.bias + self.scale * scores)


def _coordinates(
    x: Float[Tensor, "batch heads length head_dim"], positions: Int[Tensor, "..."] | None
) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
    """Place and segment of each position."""
    if positions is None:
        places = torch.arange(x.shape[-2], device=x.device)  # length
        return places, torch.zeros_like(places)
    return positions[..., 0], positions[..., 1]


def main() -> None:
    """Print the weights of two segments of a sequence, a question and its answer."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.self_attention import MultiHeadSelfAttention

    words = ["who", "sat", "the", "cat"]
    position = XLNetEmbedding(6, num_heads=2, head_dim=3)
    attention = fill(MultiHeadSelfAttention(6, num_heads=2, position=position, bias=False))
    places = torch.as_tensor([[0, 0], [1, 0], [2, 1], [3, 1]])  # length axes
    show(
        "MultiHeadSelfAttention with XLNetEmbedding",
        attention(draw(1, 4, 6), positions=places),
        words,
        words,
    )


if __name__ == "__main__":
    main()
