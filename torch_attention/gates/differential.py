r"""Differential attention: the difference of two softmaxes cancels their common noise (Ye et al. 2024).

$$ \mathrm{head}_h = (1 - \lambda_{\mathrm{init}})\, \mathrm{RMSNorm}\!\left((A_{2h} - \lambda A_{2h+1}) V_h\right),
   \qquad A_m = \mathrm{softmax}(Q_m K_m^\top / \sqrt{d}) $$

$$ \lambda = e^{\lambda_{q1} \cdot \lambda_{k1}} - e^{\lambda_{q2} \cdot \lambda_{k2}} + \lambda_{\mathrm{init}} $$

Changes from `MultiHeadSelfAttention`: each head has two pairs of queries and keys, with half of its features each, and
values with all of its features; the weights are the difference of two softmaxes; each head is normalised before the
output projection. The query and key heads are ordered as in the paper, 2h next to 2h + 1 (transformers' DiffLlama: h
and h + H).

| symbol                     | argument      |                                                          |
|----------------------------|---------------|----------------------------------------------------------|
| H                          | `num_heads`   | value heads; there are 2 H query and key heads           |
| d                          | `head_dim`    | `embed_dim / num_heads / 2`                              |
| $\lambda_{\mathrm{init}}$  | `lambda_init` | `lambda_init_at(depth)` in the paper                     |
"""

import math
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_divisible
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory, parameter
from torch_attention.norms import normalise, rms_norm
from torch_attention.ops import at_least_float32, merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
def lambda_init_at(depth: int) -> float:
    """Initial value 0.8 - 0.6 exp(-0.3 depth) of λ, for a layer after `depth` others (Ye et al. 2024, section 2.1)."""
    return 0.8 - 0.6 * math.exp(-0.3 * depth)


@checked
class DifferentialAttention(SelfAttentionFrame):
    """Multi-head self-attention whose weights are the difference of two softmaxes (Ye et al. 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of value heads; `2 num_heads` must divide `embed_dim`.
        lambda_init: approximate initial value of λ, such as `lambda_init_at(depth)`.
        eps: constant added to the mean square in the norm of each head.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training; both softmaxes share one mask.

    Raises:
        ValueError: sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        lambda_init: float = 0.8,
        eps: float = 1e-5,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        value_dim = heads.head_dim
        check_divisible(value_dim=value_dim, pair=2)
        super().__init__(embed_dim, num_heads, value_dim // 2, is_causal=is_causal, **options)
        factory = Factory(device=device, dtype=dtype)
        self.lambda_init = lambda_init
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)
        self.lambda_q1 = parameter(self.head_dim, std=0.1, **factory)
        self.lambda_k1 = parameter(self.head_dim, std=0.1, **factory)
        self.lambda_q2 = parameter(self.head_dim, std=0.1, **factory)
        self.lambda_k2 = parameter(self.head_dim, std=0.1, **factory)
        self.head_norm = rms_norm(value_dim, eps=eps, **factory)

    def factor(self) -> Float[Tensor, ""]:
        """Compute λ, the factor on the second softmax, in at least float32."""
        first = at_least_float32(self.lambda_q1[...]) * at_least_float32(self.lambda_k1[...])  # head_dim
        second = at_least_float32(self.lambda_q2[...]) * at_least_float32(self.lambda_k2[...])  # head_dim
        return torch.exp(first.sum(-1)) - torch.exp(second.sum(-1)) + self.lambda_init

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with the difference of two softmaxes as weights.

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
        query = split_heads(self.q_proj(x), self.head_dim)  # batch two_heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch two_heads length head_dim
        value = split_heads(self.v_proj(x), 2 * self.head_dim)  # batch heads length value_dim
        found = self.recall(KeyValue(key, value), mask, **call)
        first, second = (
            self.place(found, query[:, half::2], found.entries.key[:, half::2], **call) for half in (0, 1)
        )
        first = first.sampled()
        second = second._replace(dropout_keep=first.dropout_keep)  # both softmaxes share one dropout mask
        first_heads, first_weights = first.attend()
        second_heads, second_weights = second.attend()
        factor = self.factor()
        heads = at_least_float32(first_heads) - factor * at_least_float32(
            second_heads
        )  # batch heads length value_dim
        heads = normalise(self.head_norm, heads.to(value.dtype)) * (1.0 - self.lambda_init)
        weights = None
        if first_weights is not None and second_weights is not None:
            weights = first_weights - factor * second_weights  # batch heads length length
        return first.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show the weights of differential attention, and λ."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    attention = fill(DifferentialAttention(embed_dim=8, num_heads=2, lambda_init=lambda_init_at(1)))
    show("DifferentialAttention", attention(draw(1, 3, 8)), words, words)
    print(f"lambda_init {attention.lambda_init:.3f}, lambda {attention.factor().tolist():.3f}")


if __name__ == "__main__":
    main()
