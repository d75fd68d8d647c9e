r"""Grouped-query attention: several query heads share one head of keys and values (Ainslie et al. 2023).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(Q_h K_g^\top / \sqrt{d}\right) V_g, \qquad g = \lfloor h G / H \rfloor $$

One change from `MultiHeadSelfAttention`: there are only G heads of keys and values. With G = H it is that class,
with G = 1 `MultiQueryAttention`; a cache of keys and values is H / G times smaller.

| symbol | argument       |
|--------|----------------|
| H      | `num_heads`    |
| G      | `num_kv_heads` |
| d      | `head_dim`     |
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache, KeyValue
from torch_attention.checks import check_divisible, check_sequence
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.ops import attend, merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput, attention_output
from torch_attention.positions.protocol import check_scheme, place
from torch_attention.recall import check_call, recall


@checked
class GroupedQueryAttention(nn.Module):
    """Multi-head self-attention in which groups of query heads share keys and values (Ainslie et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: heads of queries.
        num_kv_heads: heads of keys and values; must divide `num_heads`.
        head_dim: features of a head; `embed_dim / num_heads` if None.
        position: what tells queries and keys where they stand; see `positions`.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        is_causal: whether no position sees what comes after it.
        bias: whether the projections have biases.
        dropout: rate at which weights are dropped in training.

    Raises:
        ValueError: sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        head_dim: int | None = None,
        position: nn.Module | None = None,
        scale: float | None = None,
        is_causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_divisible(num_heads=num_heads, num_kv_heads=num_kv_heads)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.is_causal = is_causal
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, num_kv_heads * self.head_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, num_kv_heads * self.head_dim, bias=bias, **factory)
        self.out_proj = linear(num_heads * self.head_dim, embed_dim, bias=bias, **factory)
        self.position = position
        self.scale = scale
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads length length"] | None = None,
    ) -> AttentionOutput | CachedOutput:
        """Attend once for each query head to the keys of its group; the rest as in `MultiHeadSelfAttention`.

        With `is_causal` a cache can be given, as in `CausalSelfAttention`.
        """
        check_sequence("x", x, self.embed_dim)
        check_call(
            x,
            mask,
            positions,
            dropout_keep,
            cache,
            position=self.position,
            num_heads=self.num_heads,
            is_causal=self.is_causal,
        )
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        seen = recall(cache, KeyValue(key, value), mask, positions)
        placed = place(self.position, query, seen.entries.key, seen.query_positions, seen.key_positions)
        heads, weights = attend(
            placed.query,
            placed.key,
            seen.entries.value,
            placed.bias,
            seen.mask,
            is_causal=self.is_causal,
            query_offset=seen.offset,
            scale=self.scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, placed.key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return attention_output(self.out_proj(merge_heads(heads)), weights, seen.cache)


def main() -> None:
    """Show four query heads of which every two share their keys."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    grouped = fill(GroupedQueryAttention(embed_dim=8, num_heads=4, num_kv_heads=2))
    show("GroupedQueryAttention", grouped(x), words, words)


if __name__ == "__main__":
    main()
