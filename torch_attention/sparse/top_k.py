r"""Top-k attention (explicit sparse attention): each query attends to its k best keys (Zhao et al. 2019).

$$ s_{ij} = q_i^\top k_j / \sqrt{d}, \qquad \alpha_{ij} = \frac{\exp s_{ij}}{\sum_{l \in T_i} \exp s_{il}}
   \text{ for } j \in T_i, \text{ else } 0, \qquad T_i = \text{the } k \text{ keys of largest } s_{ij} $$

One change from `MultiHeadSelfAttention`: all weights but the k largest of each row are zero. With k equal to the length
it is `MultiHeadSelfAttention`.

| symbol | argument | |
|--------|----------|-----------------------------------------------------------------------|
| k      | `top_k`  | ties go to the first key, so at most k keys are kept                  |
| d      | `head_dim` | `embed_dim / num_heads`                                             |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_positive
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory, precise
from torch_attention.ops import (
    dot_product_scores,
    masked_softmax,
    merge_heads,
    split_heads,
    top_k_mask,
)
from torch_attention.ops.dispatch import Restrictions
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
def top_k_attention_weights(
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch kv_heads key head_dim"],
    bias: Float[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    *,
    top_k: int,
    **scoring: Unpack[Restrictions],
) -> Float[Tensor, "batch heads query key"]:
    """Softmax over the `top_k` visible keys with the highest scores.

    The gradient is the gradient of a softmax over the kept keys; none flows through the selection.

    Args:
        query, key, bias, mask, scoring: as in `dot_product_attention_weights`.
        top_k: number of keys that each query attends to.

    Raises:
        TypeError, ValueError: as in `dot_product_attention_weights`, or `top_k` below 1.
    """
    check_positive(top_k=top_k)
    scores, visible = dot_product_scores(query, key, bias, mask, **scoring)
    return masked_softmax(scores, top_k_mask(scores, top_k, visible))


@checked
class TopKAttention(SelfAttentionFrame):
    """Multi-head self-attention to the k keys with the highest scores per query (Zhao et al. 2019).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        top_k: number of keys that each query attends to.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, `top_k` below 1, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        top_k: int,
        *,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        check_positive(top_k=top_k)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, **options)
        factory = Factory(device=device, dtype=dtype)
        self.top_k = top_k
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention to the `top_k` visible keys with the highest scores.

        Masked keys are not counted.

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
        query = split_heads(precise(self.q_proj, x), self.head_dim)  # batch heads length head_dim
        key = split_heads(precise(self.k_proj, x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        weights = top_k_attention_weights(
            seen.query, seen.key, seen.bias, seen.mask, top_k=self.top_k, **seen.scoring
        )  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show two heads that keep two keys per query."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    x = draw(1, 4, 6)
    show("TopKAttention", fill(TopKAttention(embed_dim=6, num_heads=2, top_k=2))(x), words, words)


if __name__ == "__main__":
    main()
