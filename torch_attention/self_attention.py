r"""Self-attention: a sequence looks at itself.

$$ Q = X W_Q, \quad K = X W_K, \quad V = X W_V, \qquad
   \mathrm{head} = \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V $$

Each class adds one thing to the one before:

| class                    | adds                                         | source                             |
|--------------------------|----------------------------------------------|------------------------------------|
| `SelfAttention`          | learned queries, keys and values             | Vaswani et al. 2017, section 3.2.1 |
| `MultiHeadSelfAttention` | several heads, and a map W_O that joins them | Vaswani et al. 2017, section 3.2.2 |
| `CausalSelfAttention`    | each position sees itself and earlier ones   | Radford et al. 2018                |

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
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall
from torch_attention.layers import Factory, linear
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
class SelfAttention(SelfAttentionFrame):
    """Scaled dot-product attention with one head on learned projections (Vaswani et al. 2017).

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
        """Let every position attend to every position it may see.

        Args:
            x: the sequence.
            mask: True where the query attends to the key.
            positions: position of each element, for `position`; None counts from 0.
            lengths: how many elements of each sequence are there, `(batch,)`; the rest is padding.
            segments: number of the text that each element of a packed row belongs to, `(batch, length)`.
            need_weights: whether to return the weights; without them the fastest implementation runs.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
            implementation: which implementation makes the output, without weights; None for the fastest.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, length, length)`.

        Raises:
            TypeError, ValueError: a mask that is not boolean; shapes that do not fit.
        """
        self.check(x, mask, **call)
        query = self.q_proj(x)[:, None]  # batch 1 length embed
        key = self.k_proj(x)[:, None]  # batch 1 length embed
        value = self.v_proj(x)[:, None]  # batch 1 length embed
        heads, weights = self.see(query, KeyValue(key, value), mask, **call).attend()
        return AttentionOutput(heads[:, 0], None if weights is None else weights[:, 0])


@checked
class MultiHeadSelfAttention(SelfAttentionFrame):
    """Several heads, each attending in its own subspace, joined by a linear map (Vaswani et al. 2017).

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
        **call: Unpack[SelfCall],
    ) -> AttentionOutput:
        """Let every position attend to every position it may see, once for each head.

        Args:
            x: the sequence.
            mask: True where the query attends to the key.
            positions: position of each element, for `position`; None counts from 0.
            lengths: how many elements of each sequence are there, `(batch,)`; the rest is padding.
            segments: number of the text that each element of a packed row belongs to, `(batch, length)`.
            need_weights: whether to return the weights; without them the fastest implementation runs.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
            implementation: which implementation makes the output, without weights; None for the fastest.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`.

        Raises:
            TypeError, ValueError: a mask that is not boolean; shapes that do not fit.
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
    """Multi-head self-attention in which no position sees a later one (Radford et al. 2018).

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
        """Let every position attend to itself and to those before it that `mask` lets it see.

        Args:
            x, positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`;
                with a cache x is what is new.
            mask: it can only hide more, never show what comes later; with a cache `(batch, 1, 1, new)`.
            cache: KV cache with the tokens before; see `caches`.

        Returns:
            As there, or a `CachedOutput` with a cache.

        Raises:
            TypeError, ValueError: as there, or a cache that does not fit.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show who looks at whom in a sentence, with and without a view of what comes later."""
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
