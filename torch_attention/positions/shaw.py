r"""Relative position representations: a learned vector for each distance, in keys and values (Shaw et al. 2018).

$$ s_{ij} = q_i^\top (k_j + a^K_{c(j - i)}) / \sqrt{d}, \qquad o_i = \sum_j \alpha_{ij} (v_j + a^V_{c(j - i)}),
   \qquad c(x) = \max(-k, \min(x, k)) $$

One change from `MultiHeadSelfAttention`: the vectors a, which all heads share. `ShawEmbedding` is the part with a^K
alone, which any dot-product class can hold, as later work does; `ShawSelfAttention` has both.

| symbol | argument       | shape                                                    |
|--------|----------------|----------------------------------------------------------|
| k      | `max_distance` | beyond it all distances are alike                        |
| a^K    |                | `key_embedding`, `(2 max_distance + 1, head_dim)`        |
| a^V    |                | `value_embedding`, `(2 max_distance + 1, head_dim)`      |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import einsum, matmul, take_along
from torch_attention.caches import KeyValue
from torch_attention.checks import check_positive
from torch_attention.frame import Dropping, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory, embedding
from torch_attention.ops import (
    Placed,
    at_least_float32,
    masked_softmax,
    merge_heads,
    split_heads,
    weighted_values,
)
from torch_attention.ops.arrays import sum_by_slot
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.positions.protocol import check_heads, distances, look_up


@checked
def relative_scores(
    x: Float[Tensor, "batch heads length head_dim"],
    rows: Float[Tensor, "... rows head_dim"],
    row: Int[Tensor, "... length other"],
) -> Float[Tensor, "batch heads length other"]:
    """x_i · rows[row_ij] for every pair: each x meets each row once, and what a pair needs is picked out.

    Args:
        x: queries or keys.
        rows: one vector a distance, the same for all heads or `(heads, rows, head_dim)`.
        row: which of them belongs to a pair, broadcast against the result.
    """
    scores = matmul(at_least_float32(x), at_least_float32(rows).swapaxes(-1, -2))  # batch heads length rows
    return take_along(scores, row, -1)  # batch heads length other


@checked
class ShawEmbedding(nn.Module):
    """Adds to each key a learned vector for its distance from the query (Shaw et al. 2018, a^K alone).

    Args:
        head_dim: features of a head.
        max_distance: beyond it all distances are alike.
        scale: factor on the scores, that of the class which holds it; `1 / sqrt(head_dim)` if None.

    Raises:
        ValueError: no distance.
    """

    def __init__(
        self,
        head_dim: int,
        max_distance: int,
        *,
        scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(max_distance=max_distance)
        factory = Factory(device=device, dtype=dtype)
        self.head_dim = head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.rows = tuple(range(2 * max_distance + 1))
        self.key_embedding = embedding(len(self.rows), head_dim, **factory)

    def forward(
        self,
        query: Float[Tensor, "batch heads query head_dim"],
        key: Float[Tensor, "batch kv_heads key head_dim"],
        query_positions: Int[Tensor, "..."] | None = None,
        key_positions: Int[Tensor, "..."] | None = None,
    ) -> Placed:
        """Leave queries and keys as they are, and add the scores of the vectors; arguments as in `place`.

        Raises:
            ValueError: heads of another `head_dim`.
        """
        check_heads(query, key, head_dim=self.head_dim)
        row = look_up(distances(query, key, query_positions, key_positions), self.rows)  # 1|batch 1 query key
        table = self.key_embedding(torch.as_tensor(self.rows, device=query.device))  # rows head_dim
        return Placed(query, key, self.scale * relative_scores(query, table, row))


@checked
class ShawSelfAttention(SelfAttentionFrame):
    """Multi-head self-attention whose keys and values know their distance from the query (Shaw et al. 2018).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        max_distance: beyond it all distances are alike.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, no distance, or a rate outside [0, 1).
    """

    position: ShawEmbedding

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        max_distance: int,
        *,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Dropping],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        factory = Factory(device=device, dtype=dtype)
        position = ShawEmbedding(heads.head_dim, max_distance, **factory)
        super().__init__(
            embed_dim, num_heads, heads.head_dim, is_causal=is_causal, position=position, **options
        )
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)
        self.value_embedding = embedding(2 * max_distance + 1, self.head_dim, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Attend to keys and values as seen from each query; arguments and errors as in `MultiHeadSelfAttention`.

        With `is_causal` a cache can be given, as in `CausalSelfAttention`.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        found = self.recall(KeyValue(key, value), mask, **call)
        places = found.query_positions, found.key_positions
        seen = self.place(found, query, found.entries.key, **call)
        weights = masked_softmax(*seen.scores())  # batch heads length length
        rows = self.position.rows
        kept = self.dropout(weights, seen.dropout_keep)  # batch heads length length
        row = look_up(distances(seen.query, seen.key, *places), rows)  # 1|batch 1 length length
        by_row = sum_by_slot(kept, row, len(rows))  # batch heads length rows
        table = self.value_embedding(torch.as_tensor(rows, device=x.device))  # rows head_dim
        shifts = einsum("bhqr,rd->bhqd", by_row, at_least_float32(table))  # batch heads length head_dim
        heads = (weighted_values(kept, at_least_float32(seen.value)) + shifts).to(
            value.dtype
        )  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show causal attention that tells the last word, the one before and all earlier ones apart."""
    from torch_attention.demonstration import draw, fill, show

    words = ["one", "two", "three", "four"]
    attention = fill(ShawSelfAttention(embed_dim=6, num_heads=2, max_distance=2, is_causal=True))
    show("ShawSelfAttention", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
