r"""Multi-query attention: all query heads share one key and value head (Shazeer 2019).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(X W_{Q,h}\, (X W_K)^\top / \sqrt{d}\right) X W_V $$

One change from `MultiHeadSelfAttention`: W_K and W_V have no head index. The KV cache is H times smaller, which speeds
up decoding, where each step reads the whole cache. `GroupedQueryAttention` lies between the two.

| symbol | argument    |
|--------|-------------|
| H      | `num_heads` |
| d      | `head_dim`  |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
class MultiQueryAttention(SelfAttentionFrame):
    """Multi-head self-attention whose query heads all share one key and value head (Shazeer 2019).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads, 1, head_dim)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, **options)
        factory = Factory(device=device, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with a single key and value head.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            cache: KV cache of the earlier positions, if `is_causal`; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = self.k_proj(x)[:, None]  # batch 1 length head_dim
        value = self.v_proj(x)[:, None]  # batch 1 length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show two query heads that attend to the same keys."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    shared = fill(MultiQueryAttention(embed_dim=8, num_heads=2))
    show("MultiQueryAttention", shared(x), words, words)


if __name__ == "__main__":
    main()
