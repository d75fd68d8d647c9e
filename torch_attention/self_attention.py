r"""Self-attention: each position of a sequence attends to positions of the same sequence.

$$ Q = X W_Q, \quad K = X W_K, \quad V = X W_V, \qquad
   \mathrm{head} = \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V $$

Each class adds one feature to the previous class:

| class                    | adds                                             | source                             |
|--------------------------|--------------------------------------------------|------------------------------------|
| `SelfAttention`          | learned query, key and value projections         | Vaswani et al. 2017, section 3.2.1 |
| `MultiHeadSelfAttention` | several heads and an output projection W_O       | Vaswani et al. 2017, section 3.2.2 |
| `CausalSelfAttention`    | a causal mask: no attention to later positions   | Radford et al. 2018                |

| symbol | argument     | shape                        |
|--------|--------------|------------------------------|
| X      | `x`          | `(batch, length, embed_dim)` |
| d      | `head_dim`   | `embed_dim / num_heads`      |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_divisible
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, SharedCall
from torch_attention.layers import Factory, linear
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
class SelfAttention(SelfAttentionFrame):
    """Single-head scaled dot-product self-attention with learned projections (Vaswani et al. 2017).

    Args:
        embed_dim: features of input, queries, keys, values and output.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(embed_dim)` if None.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        super().__init__(embed_dim, None, embed_dim, **options)
        factory = Factory(device=device, dtype=dtype)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput:
        """Apply self-attention to a sequence.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            positions: positions of the tokens for the positional encoding; None counts from 0.
            lengths: number of real tokens in each sequence, `(batch,)`; the rest is padding. None for no padding.
            segments: segment number of each token, `(batch, length)`; tokens attend only within their segment.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
            implementation: name of the implementation for calls without weights; None for the fastest.

        Returns:
            Output `(batch, length, embed_dim)` and attention weights `(batch, length, length)`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match.
        """
        self.check(x, mask, **call)
        query = self.q_proj(x)[:, None]  # batch 1 length embed
        key = self.k_proj(x)[:, None]  # batch 1 length embed
        value = self.v_proj(x)[:, None]  # batch 1 length embed
        heads, weights = self.see(query, KeyValue(key, value), mask, **call).attend()
        return AttentionOutput(heads[:, 0], None if weights is None else weights[:, 0])


@checked
class MultiHeadSelfAttention(SelfAttentionFrame):
    """Multi-head self-attention: heads in separate subspaces and an output projection (Vaswani et al. 2017).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        super().__init__(embed_dim, num_heads, embed_dim // num_heads, **options)
        factory = Factory(device=device, dtype=dtype)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SharedCall],
    ) -> AttentionOutput:
        """Apply multi-head self-attention to a sequence.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            position: positional encoding of this call, for layers that share one; None for the layer's own.
            positions: positions of the tokens for the positional encoding; None counts from 0.
            lengths: number of real tokens in each sequence, `(batch,)`; the rest is padding. None for no padding.
            segments: segment number of each token, `(batch, length)`; tokens attend only within their segment.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
            implementation: name of the implementation for calls without weights; None for the fastest.

        Returns:
            Output `(batch, length, embed_dim)` and attention weights `(batch, heads, length, length)`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend()
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights)


@checked
class CausalSelfAttention(SelfAttentionFrame):
    """Causal multi-head self-attention: no position attends to a later one (Radford et al. 2018).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        super().__init__(embed_dim, num_heads, embed_dim // num_heads, is_causal=True, **options)
        factory = Factory(device=device, dtype=dtype)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal self-attention to a sequence, or to the new tokens of one with a KV cache.

        Args:
            x: input sequence, `(batch, length, embed_dim)`; with a cache, only the new tokens.
            mask: boolean mask, True where a query may attend to a key; later positions stay masked in any case.
                With a cache: `(batch, 1, 1, new)`, True for new tokens that are not padding.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.
            cache: KV cache of the earlier positions; None without one.

        Returns:
            Output and attention weights as in `MultiHeadSelfAttention`; with a cache, a `CachedOutput`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match, or the cache does not match the input.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Print the attention weights of a sentence, with and without a causal mask."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    x = draw(1, 4, 6)
    show("SelfAttention", fill(SelfAttention(embed_dim=6))(x), words, words)
    multi_head = fill(MultiHeadSelfAttention(embed_dim=6, num_heads=2))
    show("MultiHeadSelfAttention", multi_head(x), words, words)
    causal = fill(CausalSelfAttention(embed_dim=6, num_heads=2))
    show("CausalSelfAttention", causal(x), words, words)


if __name__ == "__main__":
    main()
