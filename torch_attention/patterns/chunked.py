r"""Chunked attention: causal self-attention within consecutive chunks of the sequence (Llama 4, Meta 2025).

$$ o_i = \sum_{j \in C_i} \alpha_{ij} v_j, \qquad
   C_i = \{j \le i : \lfloor j / C \rfloor = \lfloor i / C \rfloor\}, \qquad
   \alpha_{ij} = \mathrm{softmax}_{j \in C_i}\!\left(q_i^\top k_j / \sqrt{d}\right) $$

One change from `SlidingWindowAttention`: the window has fixed borders and does not slide with the query. The first
position of a chunk attends only to itself, the last one to all C. If C is at least the length, this is
`CausalSelfAttention`. Llama 4 alternates three such layers with rotary positions and one layer of full attention.

| symbol | argument     |
|--------|--------------|
| C      | `chunk_size` |
| C_i    | `chunked_mask` |
| d      | `head_dim`   |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_positive
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory
from torch_attention.masks import chunked_mask
from torch_attention.ops import at_least_float32, merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.patterns.blocks import blocks_of, local_attention


@checked
class ChunkedAttention(SelfAttentionFrame):
    """Causal self-attention within chunks of `chunk_size` positions (Llama 4, Meta 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        chunk_size: number of positions in a chunk; the last chunk may be shorter.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        qk_norm_eps: constant added to the mean square in norms of queries and keys without a learned scale, as in Llama
            4; None for no norms.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        out_bias: whether the output projection has a bias; None means the same as `bias`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a chunk size below 1, sizes that do not divide, or a rate outside [0, 1).
    """

    fixed_positions = "its chunks are cut at fixed positions"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        chunk_size: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm_eps: float | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        check_positive(chunk_size=chunk_size)
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=True, **options)
        factory = Factory(device=device, dtype=dtype)
        self.chunk_size = chunk_size
        self.qk_norm_eps = qk_norm_eps
        projections = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal self-attention within chunks.

        Chunks are counted in sequence elements; `positions` only affect the positional encoding.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; combined with the pattern. None for no mask.
            cache: KV cache of the earlier positions; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        if self.qk_norm_eps is not None:  # a rotation keeps the mean square: the order does not matter
            query, key = unit_rms(query, self.qk_norm_eps), unit_rms(key, self.qk_norm_eps)
        blocks = blocks_of(x.shape[1], 0, 0, size=self.chunk_size) if self.is_cut(**call) else None
        if blocks is not None:
            heads = local_attention(self, blocks, query, key, value, mask, sees=None, **call)
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)
        seen = self.see(query, KeyValue(key, value), mask, **call)
        chunks = chunked_mask(
            x.shape[1],
            seen.key.shape[2],
            chunk_size=self.chunk_size,
            query_offset=seen.scoring["query_offset"],
            device=x.device,
        )
        heads, weights = seen.with_mask(chunks).attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def unit_rms(x: Float[Tensor, "*batch dim"], eps: float) -> Float[Tensor, "*batch dim"]:
    """Divide each vector by its root mean square, without a learned scale."""
    wide = at_least_float32(x)
    return (wide / torch.sqrt(torch.square(wide).mean(dim=-1, keepdim=True) + eps)).to(x.dtype)


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
