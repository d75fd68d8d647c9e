r"""Talking-heads attention: heads exchange scores before the softmax and weights after it (Shazeer et al. 2020).

$$ L_h = Q_h K_h^\top / \sqrt{d}, \qquad J_g = \sum_h P^{\mathrm{pre}}_{gh} L_h, \qquad
   \mathrm{head}_h = \Big(\sum_g P^{\mathrm{post}}_{hg}\, \mathrm{softmax}(J_g + B_g)\Big) V_h $$

One change from `MultiHeadSelfAttention`: two learned maps from heads to heads; with both the identity it is that class.
The weights of a query need not sum to one, and may be negative.

| symbol                | parameter  |                                                                          |
|-----------------------|------------|--------------------------------------------------------------------------|
| $P^{\mathrm{pre}}$    | `pre_map`  | `(num_heads, num_heads)`; x-transformers holds it less the identity      |
| $P^{\mathrm{post}}$   | `post_map` | `(num_heads, num_heads)`                                                 |
| B                     |            | what a position scheme adds to the scores; it belongs to the heads g     |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.caches import KeyValue
from torch_attention.checks import check_pairs, check_sequence
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory, parameter
from torch_attention.ops import (
    at_least_float32,
    dot_product_scores,
    masked_softmax,
    merge_heads,
    split_heads,
)
from torch_attention.ops.definition import call_masks
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
def talk(
    head_map: Float[Tensor, "heads heads"], x: Float[Tensor, "batch heads query key"]
) -> Float[Tensor, "batch heads query key"]:
    """Each head becomes the sum of all heads, weighted by its row of `head_map`; in at least float32."""
    return einsum("gh,bhqk->bgqk", at_least_float32(head_map), at_least_float32(x))


@checked
class TalkingHeadsAttention(SelfAttentionFrame):
    """Multi-head self-attention whose heads are mixed before and after the softmax (Shazeer et al. 2020).

    A mask is the same for all heads: what one of them sees, the others hear of.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: rate at which weights are dropped in training, after they were exchanged.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, **options)
        factory = Factory(device=device, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)
        self.pre_map = parameter(num_heads, num_heads, std=num_heads**-0.5, **factory)
        self.post_map = parameter(num_heads, num_heads, std=num_heads**-0.5, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Let the heads talk before they attend and after; the rest as in `MultiHeadSelfAttention`.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: True where the query attends to the key; its axis of heads, if it has one, is 1.
            need_weights: whether to return the weights, those after the exchange.
            cache: with `is_causal`, as in `CausalSelfAttention`; all others as in `MultiHeadSelfAttention`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        if call.get("cache") is None:
            check_sequence("x", x, self.embed_dim)
            check_pairs(x, x, mask)
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        scores, _ = dot_product_scores(seen.query, seen.key, scale=self.scale)
        scores = talk(self.pre_map[...], scores)  # batch heads length length
        bias, visible = call_masks(seen.call())
        scores = scores if bias is None else scores + bias
        weights = talk(self.post_map[...], masked_softmax(scores, visible))  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show weights that were exchanged between heads."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    attention = fill(TalkingHeadsAttention(embed_dim=8, num_heads=2))
    show("TalkingHeadsAttention", attention(draw(1, 3, 8)), words, words)


if __name__ == "__main__":
    main()
