r"""Sigmoid attention: each weight depends on its own score alone, and rows need not sum to one.

$$ \mathrm{head}_h = \sigma\!\left(Q_h K_h^\top / \sqrt{d} + b\right) V_h, \qquad b = -\log n $$

One change from `MultiHeadSelfAttention`: a sigmoid replaces the softmax. With b = -log n, the weights of n keys with
zero scores sum to about one, as with a softmax (Ramapuram et al. 2024, "Theory, Analysis, and Best Practices for
Sigmoid Self-Attention"). For a fixed b, masking a key does not change the weights of the others.

| symbol | argument    |                                              |
|--------|-------------|----------------------------------------------|
| b      | `shift`     | -log n if None; 0 in x-transformers          |
| n      |             | number of keys that any query may attend to  |
"""

from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import log_size
from torch_attention.caches import KeyValue
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory
from torch_attention.ops import (
    at_least_float32,
    merge_heads,
    split_heads,
)
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
def sigmoid_weights(
    scores: Float[Tensor, "... query key"],
    mask: Bool[Tensor, "#*axes"] | None = None,
    *,
    shift: float | None = None,
) -> Float[Tensor, "... query key"]:
    """Compute sigmoid attention weights from the scores, in at least float32 (Ramapuram et al. 2024).

    Args:
        scores: attention scores.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.
        shift: constant added to every score; None for -log of the number of keys, not counting keys that are masked for
            every query.

    Returns:
        Weights between 0 and 1. Masked weights and their gradients are exactly zero.
    """
    scores = at_least_float32(scores)  # ... query key
    added: Any = _shift(scores, mask) if shift is None else shift
    weights = torch.sigmoid(scores + added)  # ... query key
    return weights if mask is None else torch.where(mask, weights, 0.0)


def _shift(scores: Float[Tensor, "... query key"], mask: Bool[Tensor, "..."] | None) -> Any:
    """Minus the logarithm of the number of keys that at least one query may attend to."""
    if mask is None:
        return -log_size(scores.shape[-1])
    count = mask.any(-2)[..., None, :].sum(-1)[..., None]  # ... 1 1
    return -torch.log(torch.where(count > 0, count, 1).to(scores.dtype))


@checked
class SigmoidAttention(SelfAttentionFrame):
    """Multi-head self-attention with a sigmoid instead of a softmax (Ramapuram et al. 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        shift: constant added to every score; None for -log of the number of keys, not counting keys that are masked for
            every query. Incremental decoding needs a number.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
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
        shift: float | None = None,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, **options)
        factory = Factory(device=device, dtype=dtype)
        self.shift = shift
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with sigmoid weights.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            cache: KV cache of the earlier positions, if `is_causal` and with a given `shift`; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        if call.get("cache") is not None and self.shift is None:
            raise ValueError(
                "cache needs SigmoidAttention(shift=...): the final number of keys is not known yet, got shift=None"
            )
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        scores, visible = seen.scores()
        weights = sigmoid_weights(scores, visible, shift=self.shift)  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show sigmoid weights and their sums, which need not be one."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    x = draw(1, 4, 8)
    attention = fill(SigmoidAttention(embed_dim=8, num_heads=2))(x)
    show("SigmoidAttention", attention, words, words)
    assert attention.weights is not None
    sums = attention.weights.sum(dim=-1)[0]  # heads length
    for number, head in enumerate(sums.tolist()):
        print(f"weights of head {number} sum to", " ".join(f"{total:.3f}" for total in head))


if __name__ == "__main__":
    main()
