r"""Longformer attention: all see their neighbours, and a few tokens see and are seen by all (Beltagy et al. 2020).

$$ o_i = \begin{cases}
     \sum_j \mathrm{softmax}_{j}\!\left({q^g_i}^\top k^g_j / \sqrt{d}\right) v^g_j & i \in \mathcal{G} \\
     \sum_{j \in S_i} \mathrm{softmax}_{j \in S_i}\!\left(q_i^\top k_j / \sqrt{d}\right) v_j & i \notin \mathcal{G}
   \end{cases}, \qquad S_i = \{j : |i - j| \le w\} \cup \mathcal{G} $$

Two changes from `MultiHeadSelfAttention`: a window to both sides, and global tokens G, chosen for each input (the
first one, say, or those of a question). A global token asks with queries, keys and values of its own projections; one
that is not finds the global tokens with the same projections as its neighbours.

| symbol        | argument                                             |                                         |
|---------------|------------------------------------------------------|-----------------------------------------|
| w             | `one_sided_window`                                   | half of transformers' `attention_window` |
| G             | `global_tokens`                                      | of the call                             |
| S             | `local_global_mask`                                  |                                         |
| q^g, k^g, v^g | `global_q_proj`, `global_k_proj`, `global_v_proj`    | of x                                    |
| d             | `head_dim`                                           |                                         |
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_divisible, check_pairs, check_positive, check_sequence
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.masks import and_masks
from torch_attention.ops import dot_product_attention_weights, merge_heads, split_heads, weighted_values
from torch_attention.outputs import AttentionOutput
from torch_attention.patterns.blocks import blocks_of, local_attention
from torch_attention.patterns.local_global import heads_of_global_tokens, is_near, local_and_global_heads
from torch_attention.positions.protocol import check_positions, check_scheme, place


@checked
def local_global_mask(
    global_tokens: Bool[Tensor, "batch length"], *, one_sided_window: int
) -> Bool[Tensor, "batch 1 length length"]:
    """Each query sees `one_sided_window` keys on each side, its own, and global ones; a global query sees all.

        >>> local_global_mask(array([[False, False, False, True, False, False]]), one_sided_window=1)
        1 1 0 1 0 0
        1 1 1 1 0 0
        0 1 1 1 0 0
        1 1 1 1 1 1
        0 0 0 1 1 1
        0 0 0 1 1 1

    Raises:
        ValueError: `one_sided_window` is below 1.
    """
    check_positive(one_sided_window=one_sided_window)
    key = torch.arange(global_tokens.shape[1], device=global_tokens.device)
    query, key = key[:, None], key[None]
    near = (key <= query + one_sided_window) & (key >= query - one_sided_window)  # length length
    return (near[None] | global_tokens[:, :, None] | global_tokens[:, None, :])[:, None]


@checked
class LongformerAttention(nn.Module):
    """Multi-head self-attention to neighbours and to global tokens (Beltagy et al. 2020).

    Args:
        embed_dim: features of input and output.
        num_heads: how many heads share them; must divide `embed_dim`.
        one_sided_window: how many keys a query sees on each side of its own.
        position: what tells queries and keys where they stand; see `positions`.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: rate at which weights are dropped in training.

    Raises:
        ValueError: a window below 1, sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        one_sided_window: int,
        *,
        position: nn.Module | None = None,
        scale: float | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(one_sided_window=one_sided_window)
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.one_sided_window = one_sided_window
        self.head_dim = embed_dim // num_heads
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.global_q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.global_k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.global_v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.position = position
        self.scale = scale
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        global_tokens: Bool[Tensor, "batch length"] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Let every position attend to its neighbours and to the global tokens, and these to all.

        Args:
            x: the sequence.
            mask: True where the query attends to the key; it can only hide more.
            global_tokens: True where a token sees all and is seen by all; None for no such token.
            positions: where each element stands, for `position`; None counts from 0.
            need_weights: whether to return the weights.
            dropout_keep: False where a weight is dropped; stands for the draw.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; the rows of global
            tokens are those of their own projections.

        Raises:
            TypeError: a mask or `global_tokens` that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.embed_dim)
        check_pairs(x, x, mask, dropout_keep, self.num_heads)
        check_positions("positions", positions, x, self.position)
        _check_global_tokens(global_tokens, x)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        reach = self.one_sided_window
        blocks = None if need_weights else blocks_of(x.shape[1], reach, reach)
        if blocks is not None and global_tokens is None:
            heads = local_attention(
                blocks,
                self.position,
                query,
                key,
                value,
                mask,
                sees=partial(is_near, one_sided_window=reach),
                positions=positions,
                scale=self.scale,
                dropout=self.dropout,
                dropout_keep=dropout_keep,
            )
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)
        if global_tokens is None:
            global_tokens = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        is_global = global_tokens[:, None, :, None]  # batch 1 length 1

        global_query = split_heads(self.global_q_proj(x), self.head_dim)  # batch heads length head_dim
        global_key = split_heads(self.global_k_proj(x), self.head_dim)  # batch heads length head_dim
        global_value = split_heads(self.global_v_proj(x), self.head_dim)  # batch heads length head_dim

        if blocks is not None:
            heads = local_and_global_heads(
                blocks,
                self.position,
                query,
                key,
                value,
                mask,
                global_tokens,
                positions=positions,
                one_sided_window=reach,
                scale=self.scale,
                dropout=self.dropout,
                dropout_keep=dropout_keep,
            )
            global_heads = heads_of_global_tokens(
                self.position,
                global_query,
                global_key,
                global_value,
                mask,
                global_tokens,
                positions=positions,
                scale=self.scale,
                dropout=self.dropout,
                dropout_keep=dropout_keep,
            )
            heads = torch.where(is_global, global_heads, heads)  # batch heads length head_dim
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)

        seen = local_global_mask(global_tokens, one_sided_window=self.one_sided_window)
        seen = seen if mask is None else and_masks(seen, mask)  # batch|1 heads|1 length length
        placed = place(self.position, query, key, positions, positions)
        local_weights = dot_product_attention_weights(
            placed.query, placed.key, placed.bias, seen, scale=self.scale
        )
        placed = place(self.position, global_query, global_key, positions, positions)
        global_weights = dot_product_attention_weights(
            placed.query, placed.key, placed.bias, seen, scale=self.scale
        )
        weights = torch.where(is_global, global_weights, local_weights)  # batch heads length length

        keep = self.dropout.keep_weights(query, key, dropout_keep)
        rate = self.dropout.rate
        local_heads = weighted_values(weights, value, dropout_keep=keep, dropout_rate=rate)
        global_heads = weighted_values(weights, global_value, dropout_keep=keep, dropout_rate=rate)
        heads = torch.where(is_global, global_heads, local_heads)  # batch heads length head_dim
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights if need_weights else None)


def _check_global_tokens(global_tokens: Bool[Tensor, "..."] | None, x: Float[Tensor, "..."]) -> None:
    if global_tokens is None:
        return
    if tuple(global_tokens.shape) != tuple(x.shape[:2]):
        raise ValueError(
            f"global_tokens must have shape (batch, length) = {tuple(x.shape[:2])}, "
            f"got {tuple(global_tokens.shape)}"
        )


def main() -> None:
    """Show a sentence whose first word is global, and whose others see one neighbour on each side."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.masks import mask_text

    words = ["[CLS]", "the", "cat", "sat", "still"]
    is_global = torch.arange(5)[None] == 0  # batch length
    print(mask_text(local_global_mask(is_global, one_sided_window=1)))
    attention = fill(LongformerAttention(embed_dim=6, num_heads=2, one_sided_window=1))
    show("LongformerAttention", attention(draw(1, 5, 6), global_tokens=is_global), words, words)


if __name__ == "__main__":
    main()
