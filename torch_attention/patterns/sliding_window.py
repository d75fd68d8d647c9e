r"""Sliding-window attention: each position attends to a fixed number of recent positions (Child et al. 2019).

$$ o_i = \sum_{i - W < j \le i} \alpha_{ij} v_j, \qquad
   \alpha_{ij} = \mathrm{softmax}_{i - W < j \le i}\!\left(q_i^\top k_j / \sqrt{d}\right) $$

One change from `CausalSelfAttention`: keys W or more positions before the query are masked, so a KV cache needs at most
W keys. A stack of L layers still reaches L (W - 1) positions back (Mistral, Jiang et al. 2023).

With `is_causal=False` the window has a second side, i - W < j < i + W, as in the local layers of ModernBERT (Warner et
al. 2024).

W counts the visible keys, including the query's own. Other libraries count differently:

| library                                                       | value for `window=W` |
|---------------------------------------------------------------|----------------------|
| transformers and Keras `sliding_window`                       | W                    |
| `jax.nn` `local_window_size`, x-transformers `max_attend_past` | W - 1                |

| symbol | argument   |
|--------|------------|
| W      | `window`   |
| d      | `head_dim` |
"""

from functools import partial
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_window
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.patterns.blocks import adds_bias, blocks_of, is_recent, local_attention


@checked
class SlidingWindowAttention(SelfAttentionFrame):
    """Self-attention to the last `window` positions, including the query's own (Child et al. 2019).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        window: number of visible keys, including the query's own; with `is_causal=False`, so many on each side.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        is_causal: whether each position attends only to itself and earlier positions.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        out_bias: whether the output projection has a bias; None means the same as `bias`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a window below 1, sizes that do not divide, or a rate outside [0, 1).
    """

    window: int

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        is_causal: bool = True,
        bias: bool = True,
        out_bias: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        check_window(window, is_causal=True)
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, window=window, **options)
        factory = Factory(device=device, dtype=dtype)
        projections = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention within a sliding window.

        The window is counted in sequence elements; `positions` only affect the positional encoding.

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
        is_plain = mask is None and call.get("dropout_keep") is None and not self.dropout.draws
        is_plain = is_plain and not adds_bias(self.position, query, key)
        is_cut = self.is_cut(**call) and not is_plain  # fused kernels take a window but no other pattern
        before = self.window - 1
        blocks = blocks_of(x.shape[1], before, 0 if self.is_causal else before) if is_cut else None
        if blocks is not None:
            sees = partial(is_recent, window=self.window, is_causal=self.is_causal)
            heads = local_attention(self, blocks, query, key, value, mask, sees=sees, **call)
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show a window of two words that slides over a sentence."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.masks import mask_text, sliding_window_mask

    words = ["the", "cat", "sat", "still"]
    print(mask_text(sliding_window_mask(4, window=2)))
    attention = fill(SlidingWindowAttention(embed_dim=6, num_heads=2, window=2))
    show("SlidingWindowAttention", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
