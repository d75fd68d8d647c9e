r"""Grouped-query attention: several query heads share one key and value head (Ainslie et al. 2023).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(Q_h K_g^\top / \sqrt{d}\right) V_g, \qquad g = \lfloor h G / H \rfloor $$

One change from `MultiHeadSelfAttention`: there are only G key and value heads. G = H is multi-head attention, and G = 1
is `MultiQueryAttention`. The KV cache is H / G times smaller.

| symbol | argument       |
|--------|----------------|
| H      | `num_heads`    |
| G      | `num_kv_heads` |
| d      | `head_dim`     |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.frame import Scaling, SelfAttentionFrame, SharedCall, grouped_heads
from torch_attention.layers import Factory
from torch_attention.norms import normalise
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedOutput


@checked
class GroupedQueryAttention(SelfAttentionFrame):
    """Multi-head self-attention whose query heads share key and value heads in groups (Ainslie et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; must divide `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        q_norm: norm of the queries of each head before `position`, such as `norms.rms_norm(head_dim)`; None for none.
        k_norm: norm of the keys, likewise; None for none.
        norm_after_position: whether `q_norm` and `k_norm` follow the positional encoding (HunYuan).
        clip: bound of the absolute values of queries, keys and values before these norms (OLMo, MPT); None for none.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        out_bias: whether the output projection has a bias; None means the same as `bias`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        head_dim: int | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        norm_after_position: bool = False,
        clip: float | None = None,
        is_causal: bool = False,
        bias: bool = True,
        out_bias: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, **options)
        factory = Factory(device=device, dtype=dtype)
        projections = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.norm_after_position = norm_after_position
        if norm_after_position:
            self.fixed_positions = "its norms after the positional encoding do not depend on distance alone"
        self.clip = clip

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SharedCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with grouped key and value heads.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            cache: KV cache of the earlier positions, if `is_causal`; None without one.
            position: positional encoding of this call, for layers that share one; None for the layer's own.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # batch length dim
        if self.clip is not None:
            query, key, value = [torch.clip(each, -self.clip, self.clip) for each in (query, key, value)]
        query = split_heads(query, self.head_dim)  # batch heads length head_dim
        key = split_heads(key, self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(value, self.head_dim)  # batch kv_heads length head_dim
        if not self.norm_after_position:
            query, key = self._normalised(query, key)
        seen = self.see(query, KeyValue(key, value), mask, **call)
        if self.norm_after_position:
            query, key = self._normalised(seen.query, seen.key)
            seen = seen._replace(query=query, key=key)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)

    def _normalised(
        self,
        query: Float[Tensor, "batch heads query head_dim"],
        key: Float[Tensor, "batch kv_heads key head_dim"],
    ) -> tuple[Float[Tensor, "batch heads query head_dim"], Float[Tensor, "batch kv_heads key head_dim"]]:
        """Normalise queries and keys, if there are norms."""
        query = query if self.q_norm is None else normalise(self.q_norm, query)
        return query, key if self.k_norm is None else normalise(self.k_norm, key)


def main() -> None:
    """Show four query heads that share two key and value heads."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    grouped = fill(GroupedQueryAttention(embed_dim=8, num_heads=4, num_kv_heads=2))
    show("GroupedQueryAttention", grouped(x), words, words)


if __name__ == "__main__":
    main()
