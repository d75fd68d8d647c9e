r"""Chunked attention: the sequence is cut into chunks, and no position sees beyond its own (Llama 4, Meta 2025).

$$ o_i = \sum_{j \in C_i} \alpha_{ij} v_j, \qquad
   C_i = \{j \le i : \lfloor j / C \rfloor = \lfloor i / C \rfloor\}, \qquad
   \alpha_{ij} = \mathrm{softmax}_{j \in C_i}\!\left(q_i^\top k_j / \sqrt{d}\right) $$

One change from `SlidingWindowAttention`: what is seen ends at fixed borders and does not move with the query. The
first position of a chunk sees only itself, the last one all C. With C no smaller than the sequence it is
`CausalSelfAttention`. Llama 4 has three such layers with rotary positions, then one that sees everything.

| symbol | argument     |
|--------|--------------|
| C      | `chunk_size` |
| C_i    | `chunked_mask` |
| d      | `head_dim`   |
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache, KeyValue
from torch_attention.checks import check_divisible, check_positive, check_sequence
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.masks import and_masks, chunked_mask
from torch_attention.ops import attend, merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput, attention_output
from torch_attention.patterns.blocks import blocks_of, local_attention
from torch_attention.positions.protocol import check_scheme, place
from torch_attention.recall import check_call, recall


@checked
class ChunkedAttention(nn.Module):
    """Causal self-attention within chunks of `chunk_size` positions (Llama 4, Meta 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: heads of queries.
        chunk_size: how many positions a chunk has; the last one may have fewer.
        num_kv_heads: heads of keys and values; must divide `num_heads`; as many if None.
        head_dim: features of a head; `embed_dim / num_heads` if None.
        position: what tells queries and keys where they stand; see `positions`.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: rate at which weights are dropped in training.

    Raises:
        ValueError: a chunk size below 1, sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        chunk_size: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        position: nn.Module | None = None,
        scale: float | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(chunk_size=chunk_size)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_divisible(num_heads=num_heads, num_kv_heads=num_kv_heads)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.chunk_size = chunk_size
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
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
        """Let every position attend to those of its chunk; the rest as in `CausalSelfAttention`.

        The chunks count elements of the sequence; `positions` are for `position` alone.
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
        )
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        if not need_weights and cache is None:
            blocks = blocks_of(x.shape[1], 0, 0, size=self.chunk_size)
            if blocks is not None:
                heads = local_attention(
                    blocks,
                    self.position,
                    query,
                    key,
                    value,
                    mask,
                    sees=None,
                    positions=positions,
                    scale=self.scale,
                    dropout=self.dropout,
                    dropout_keep=dropout_keep,
                )
                return attention_output(self.out_proj(merge_heads(heads)), None, None)
        seen = recall(cache, KeyValue(key, value), mask, positions)
        placed = place(self.position, query, seen.entries.key, seen.query_positions, seen.key_positions)
        sizes = x.shape[1], placed.key.shape[2]
        chunks = chunked_mask(*sizes, chunk_size=self.chunk_size, query_offset=seen.offset, device=x.device)
        heads, weights = attend(
            placed.query,
            placed.key,
            seen.entries.value,
            placed.bias,
            chunks if seen.mask is None else and_masks(chunks, seen.mask),
            scale=self.scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, placed.key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return attention_output(self.out_proj(merge_heads(heads)), weights, seen.cache)


def main() -> None:
    """Show a sentence in chunks of two words."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.masks import mask_text

    words = ["the", "cat", "sat", "still"]
    print(mask_text(chunked_mask(4, chunk_size=2)))
    attention = fill(ChunkedAttention(embed_dim=6, num_heads=2, chunk_size=2))
    show("ChunkedAttention", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
