r"""Softcapped attention: a tanh bounds every score to (-c, c) (Gemma 2, Google DeepMind 2024).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(c \tanh\!\left(s\,Q_h K_g^\top / c\right)\right) V_g,
   \qquad g = \lfloor h G / H \rfloor $$

One change from `GroupedQueryAttention`: the scaled scores are softcapped. The mask is applied afterwards, so that
masked keys stay masked. Scores much smaller than c are almost unchanged, since c tanh(l / c) ≈ l; the limit c → ∞ is
`GroupedQueryAttention`.

| symbol | argument       |                                                                            |
|--------|----------------|----------------------------------------------------------------------------|
| c      | `softcap`      | 50 in Gemma 2                                                              |
| s      | `scale`        | `query_pre_attn_scalar ** -0.5` in Gemma 2, not always `head_dim ** -0.5`  |
| H      | `num_heads`    |                                                                            |
| G      | `num_kv_heads` |                                                                            |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_window
from torch_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from torch_attention.layers import Factory
from torch_attention.norms import normalise
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
class SoftcapAttention(SelfAttentionFrame):
    """Grouped-query attention with scores bounded to (-softcap, softcap) by a tanh (Gemma 2, 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        softcap: bound of the absolute scores.
        q_norm: norm of the queries of each head before `position`, such as `norms.rms_norm(head_dim)`; None for none.
        k_norm: norm of the keys, likewise; None for none.
        window: number of visible keys, including the query's own; None for no limit.
        scale: factor on the scores before the softcap; `1 / sqrt(head_dim)` if None.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, a `softcap` that is not positive, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        head_dim: int | None = None,
        softcap: float = 50.0,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        window: int | None = None,
        is_causal: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        check_window(window, is_causal)
        if not softcap > 0.0:
            raise ValueError(f"softcap must be positive, got {softcap}")
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, window=window, **options)
        factory = Factory(device=device, dtype=dtype)
        self.softcap = softcap
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with softcapped scores.

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
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        query = query if self.q_norm is None else normalise(self.q_norm, query)
        key = key if self.k_norm is None else normalise(self.k_norm, key)
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend(softcap=self.softcap)
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show that a small softcap flattens the weights and a large one leaves them almost unchanged."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    wide = fill(SoftcapAttention(embed_dim=8, num_heads=2, softcap=50.0))
    show("SoftcapAttention, softcap 50", wide(x), words, words)
    tight = fill(SoftcapAttention(embed_dim=8, num_heads=2, softcap=0.5))
    show("SoftcapAttention, softcap 0.5", tight(x), words, words)


if __name__ == "__main__":
    main()
