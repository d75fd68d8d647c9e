r"""Longformer attention: a sliding window for all tokens, and a few global tokens (Beltagy et al. 2020).

$$ o_i = \begin{cases}
     \sum_j \mathrm{softmax}_{j}\!\left({q^g_i}^\top k^g_j / \sqrt{d}\right) v^g_j & i \in \mathcal{G} \\
     \sum_{j \in S_i} \mathrm{softmax}_{j \in S_i}\!\left(q_i^\top k_j / \sqrt{d}\right) v_j & i \notin \mathcal{G}
   \end{cases}, \qquad S_i = \{j : |i - j| \le w\} \cup \mathcal{G} $$

Two changes from `MultiHeadSelfAttention`: a window on both sides of the query, and a set G of global tokens, chosen for
each input (for example the first token, or the tokens of a question). Global queries attend to all keys and use their
own query, key and value projections. All other queries attend to the global tokens with the same projections as to
their neighbours.

| symbol        | argument                                             |                                         |
|---------------|------------------------------------------------------|-----------------------------------------|
| w             | `one_sided_window`                                   | half of transformers' `attention_window` |
| G             | `global_tokens`                                      | argument of the call                    |
| S             | `local_global_mask`                                  |                                         |
| q^g, k^g, v^g | `global_q_proj`, `global_k_proj`, `global_v_proj`    | applied to x                            |
| d             | `head_dim`                                           |                                         |
"""

from functools import partial
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_divisible, check_positive
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall
from torch_attention.layers import Factory, linear
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput
from torch_attention.patterns.blocks import blocks_of, local_attention
from torch_attention.patterns.local_global import heads_of_global_tokens, is_near, local_and_global_heads


@checked
def local_global_mask(
    global_tokens: Bool[Tensor, "batch length"], *, one_sided_window: int
) -> Bool[Tensor, "batch 1 length length"]:
    """Mask of a window on both sides plus global tokens; global queries attend to all keys.

        >>> local_global_mask(array([[False, False, False, True, False, False]]), one_sided_window=1)
        1 1 0 1 0 0
        1 1 1 1 0 0
        0 1 1 1 0 0
        1 1 1 1 1 1
        0 0 0 1 1 1
        0 0 0 1 1 1

    Args:
        global_tokens: boolean mask, True where a token is global: it attends to all tokens, and all tokens attend to
            it.
        one_sided_window: number of visible keys on each side of the query's own.

    Returns:
        Boolean mask `(batch, 1, length, length)`.

    Raises:
        ValueError: `one_sided_window` is below 1.
    """
    check_positive(one_sided_window=one_sided_window)
    key = torch.arange(global_tokens.shape[1], device=global_tokens.device)
    query, key = key[:, None], key[None]
    near = (key <= query + one_sided_window) & (key >= query - one_sided_window)  # length length
    return (near[None] | global_tokens[:, :, None] | global_tokens[:, None, :])[:, None]


@checked
class LongformerAttention(SelfAttentionFrame):
    """Multi-head self-attention to neighbours and to global tokens (Beltagy et al. 2020).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        one_sided_window: number of visible keys on each side of the query's own.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a window below 1, sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        one_sided_window: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        check_positive(one_sided_window=one_sided_window)
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        super().__init__(embed_dim, num_heads, embed_dim // num_heads, **options)
        factory = Factory(device=device, dtype=dtype)
        self.one_sided_window = one_sided_window
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.global_q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.global_k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.global_v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        global_tokens: Bool[Tensor, "batch length"] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput:
        """Apply self-attention with a local window and global tokens.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; combined with the pattern. None for no mask.
            global_tokens: boolean mask, True where a token is global: it attends to all tokens, and all tokens attend
                to it. None for no global tokens.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; rows of global tokens use
            the global projections.

        Raises:
            TypeError: a mask or `global_tokens` that is not boolean.
            ValueError: shapes that do not fit.
        """
        self.check(x, mask, **call)
        _check_global_tokens(global_tokens, x)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        reach = self.one_sided_window
        blocks = blocks_of(x.shape[1], reach, reach) if self.is_cut(**call) else None
        if blocks is not None and global_tokens is None:
            sees = partial(is_near, one_sided_window=reach)
            heads = local_attention(self, blocks, query, key, value, mask, sees=sees, **call)
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)
        if global_tokens is None:
            global_tokens = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        is_global = global_tokens[:, None, :, None]  # batch 1 length 1

        global_query = split_heads(self.global_q_proj(x), self.head_dim)  # batch heads length head_dim
        global_key = split_heads(self.global_k_proj(x), self.head_dim)  # batch heads length head_dim
        global_value = split_heads(self.global_v_proj(x), self.head_dim)  # batch heads length head_dim

        if blocks is not None:
            heads = local_and_global_heads(
                self, blocks, query, key, value, mask, global_tokens, one_sided_window=reach, **call
            )
            global_heads = heads_of_global_tokens(
                self, global_query, global_key, global_value, mask, global_tokens, **call
            )
            heads = torch.where(is_global, global_heads, heads)  # batch heads length head_dim
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)

        pattern = local_global_mask(global_tokens, one_sided_window=reach)  # batch 1 length length
        seen = self.see(query, KeyValue(key, value), mask, **call).with_mask(pattern)
        heads, weights = seen.attend()
        seen = self.see(global_query, KeyValue(global_key, global_value), mask, **call).with_mask(pattern)
        global_heads, global_weights = seen.attend()
        heads = torch.where(is_global, global_heads, heads)  # batch heads length head_dim
        if weights is not None and global_weights is not None:
            weights = torch.where(is_global, global_weights, weights)  # batch heads length length
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights)


def _check_global_tokens(global_tokens: Bool[Tensor, "..."] | None, x: Float[Tensor, "..."]) -> None:
    if global_tokens is None:
        return
    if tuple(global_tokens.shape) != tuple(x.shape[:2]):
        raise ValueError(
            f"global_tokens must have shape (batch, length) = {tuple(x.shape[:2])}, "
            f"got {tuple(global_tokens.shape)}"
        )


def main() -> None:
    """Show a sentence whose first word is global and whose other words have a window of one neighbour on each side."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.masks import mask_text

    words = ["[CLS]", "the", "cat", "sat", "still"]
    is_global = torch.arange(5)[None] == 0  # batch length
    print(mask_text(local_global_mask(is_global, one_sided_window=1)))
    attention = fill(LongformerAttention(embed_dim=6, num_heads=2, one_sided_window=1))
    show("LongformerAttention", attention(draw(1, 5, 6), global_tokens=is_global), words, words)


if __name__ == "__main__":
    main()
