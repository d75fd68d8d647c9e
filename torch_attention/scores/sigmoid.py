r"""Sigmoid attention: every key is weighed by itself, and the weights of a query need not sum to one.

$$ \mathrm{head}_h = \sigma\!\left(Q_h K_h^\top / \sqrt{d} + b\right) V_h, \qquad b = -\log n $$

One change from `MultiHeadSelfAttention`: a sigmoid in place of the softmax. With b = -log n the weights of n keys whose
scores are zero sum to about one, as those of a softmax do (Ramapuram et al. 2024, "Theory, Analysis, and Best Practices
for Sigmoid Self-Attention"). A key that is hidden changes the weight of no other.

| symbol | argument    |                                              |
|--------|-------------|----------------------------------------------|
| b      | `shift`     | -log n if None; x-transformers has 0         |
| n      |             | how many keys there are, those hidden included |
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import log_size
from torch_attention.caches import Cache, KeyValue
from torch_attention.checks import check_divisible, check_sequence
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.ops import (
    at_least_float32,
    dot_product_scores,
    merge_heads,
    split_heads,
    weighted_values,
)
from torch_attention.outputs import AttentionOutput, CachedOutput, attention_output
from torch_attention.positions.protocol import check_scheme, place
from torch_attention.recall import check_call, recall


@checked
def sigmoid_weights(
    scores: Float[Tensor, "... query key"],
    mask: Bool[Tensor, "#*axes"] | None = None,
    *,
    shift: float | None = None,
) -> Float[Tensor, "... query key"]:
    """Weights between 0 and 1, each from its own score, in at least float32 (Ramapuram et al. 2024).

    Args:
        scores: any real numbers.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.
        shift: added to every score; minus the logarithm of the number of keys if None.

    Returns:
        Weights that are exactly zero where masked, and so are their gradients.
    """
    shift = -log_size(scores.shape[-1]) if shift is None else shift
    weights = torch.sigmoid(at_least_float32(scores) + shift)
    return weights if mask is None else torch.where(mask, weights, 0.0)


@checked
class SigmoidAttention(nn.Module):
    """Multi-head self-attention with a sigmoid in place of the softmax (Ramapuram et al. 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: how many heads share them; must divide `embed_dim`.
        shift: added to every score; minus the logarithm of the number of keys if None.
        position: what tells queries and keys where they stand; see `positions`.
        is_causal: whether no position sees what comes after it.
        bias: whether the projections have biases.
        dropout: rate at which weights are dropped in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        shift: float | None = None,
        position: nn.Module | None = None,
        is_causal: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.shift = shift
        self.is_causal = is_causal
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.position = position
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads length length"] | None = None,
    ) -> AttentionOutput | CachedOutput:
        """Add up the values by weights that know nothing of each other; the rest as in `MultiHeadSelfAttention`.

        With `is_causal` a cache can be given, as in `CausalSelfAttention`.
        """
        check_sequence("x", x, self.embed_dim)
        check_call(
            x,
            mask,
            positions,
            dropout_keep,
            cache,
            position=self.position,
            num_heads=self.num_heads,
            is_causal=self.is_causal,
        )
        if cache is not None and self.shift is None:
            raise ValueError(
                "cache needs a shift: how many keys there will be is not yet known, got shift=None"
            )
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = recall(cache, KeyValue(key, value), mask, positions)
        placed = place(self.position, query, seen.entries.key, seen.query_positions, seen.key_positions)
        scores, visible = dot_product_scores(
            placed.query,
            placed.key,
            placed.bias,
            seen.mask,
            is_causal=self.is_causal,
            query_offset=seen.offset,
        )
        weights = sigmoid_weights(scores, visible, shift=self.shift)  # batch heads length length
        heads = weighted_values(
            weights,
            seen.entries.value,
            dropout_keep=self.dropout.keep_weights(query, placed.key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return attention_output(
            self.out_proj(merge_heads(heads)), weights if need_weights else None, seen.cache
        )


def main() -> None:
    """Show weights that sum to about one, and to anything else."""
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
