r"""Absorbed latent attention: queries attend to the cached latents without expanding keys (DeepSeek-AI 2024).

$$ {q^C_{t,h}}^\top (W_{UK,h}\, c_s) = (W_{UK,h}^\top q^C_{t,h})^\top c_s, \qquad
   \sum_s \alpha_{ts} (W_{UV,h}\, c_s) = W_{UV,h} \sum_s \alpha_{ts}\, c_s $$

One change from `MultiHeadLatentAttention`: the up-projections are absorbed. $W_{UK}$ is applied to the query, and
$W_{UV}$ to the weighted mean of the latents, so that decoding is multi-query attention over the cached latents. A
rotary embedding between $W_{UK}$ and the query would prevent this, because the rotation depends on both positions.
Positions are therefore encoded in a separate part of the key, `rope_key`.

| symbol     | parameter                                                                    |
|------------|------------------------------------------------------------------------------|
| W_UK, W_UV | rows of `kv_b_proj`: in each head the first `nope_head_dim`, then the rest   |
| c          | `latents.latent`                                                             |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.caches import GrowingCache
from torch_attention.frame import SelfCall
from torch_attention.heads.latent import Latents, _LatentProjections
from torch_attention.layers import linear_map
from torch_attention.ops import Placed, Scoring, at_least_float32, attend, merge_heads
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.positions.rotary import RotaryEmbedding


@checked
def absorbed_latent_attention(
    query: Float[Tensor, "batch heads query head_dim"],
    latents: Latents,
    key_up: Float[Tensor, "rank heads nope_dim"],
    value_up: Float[Tensor, "rank heads value_dim"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    need_weights: bool = True,
    dropout_keep: Bool[Tensor, "..."] | None = None,
    dropout_rate: float = 0.0,
    **scoring: Unpack[Scoring],
) -> tuple[Float[Tensor, "batch heads query value_dim"], Float[Tensor, "batch heads query key"] | None]:
    """Compute multi-head latent attention with absorbed up-projections (DeepSeek-AI 2024, section 2.1.2).

    Args:
        query: queries, `(batch, heads, query_len, head_dim)`; the first `nope_dim` features of each head are scored
            against the latents, the others against `latents.rope_key`.
        latents: cached latents and shared rotary keys, the latter already rotated.
        key_up: W_UK, the map from a latent to the keys of each head.
        value_up: W_UV, the map from a latent to the values of each head.
        mask, need_weights, dropout_keep, dropout_rate, scoring: as in `attend`; a `scale` of None is
            `1 / sqrt(head_dim)` with the `head_dim` of `query`.

    Returns:
        Output and weights, equal to the results of `attend` with the expanded keys and values.
    """
    latent, rope_key = at_least_float32(latents.latent), at_least_float32(latents.rope_key)
    wide, nope_dim = at_least_float32(query), key_up.shape[-1]
    absorbed = einsum("bhqd,rhd->bhqr", wide[..., :nope_dim], key_up.to(wide.dtype))
    given = scoring.get("scale")
    scoring["scale"] = query.shape[-1] ** -0.5 if given is None else given
    heads, weights = attend(
        torch.concatenate([absorbed, wide[..., nope_dim:]], dim=-1),  # batch heads query rank + rope_dim
        torch.concatenate([latent, rope_key], dim=-1)[:, None],  # batch 1 key rank + rope_dim
        latent[:, None],  # batch 1 key rank
        None,
        mask,
        need_weights=need_weights,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
        **scoring,
    )
    values = einsum("bhqr,rhd->bhqd", heads, value_up.to(wide.dtype))  # batch heads query value_dim
    return values.to(query.dtype), weights


@checked
class AbsorbedLatentAttention(_LatentProjections):
    """Multi-head latent attention computed on the latents, for fast decoding (DeepSeek-AI 2024).

    It has the arguments, parameters and results of `MultiHeadLatentAttention`. It needs more arithmetic per query-key
    pair but reads less memory per cached position, so it is faster for few queries and many cached positions.
    """

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention to the latents, without expanding keys and values.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            cache: KV cache of the earlier positions, with entries of type `Latents`, if `is_causal`; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query, found = self._read(x, mask, **call)
        latent = found.entries.latent[:, None]  # batch 1 slots rank
        seen = self.placed(found, Placed(query, latent, None), latent, **call).sampled()
        up = linear_map(self.kv_b_proj, seen.entries.latent).reshape(self.kv_lora_rank, self.num_heads, -1)
        heads, weights = absorbed_latent_attention(
            query,
            seen.entries,
            up[..., : self.nope_head_dim],
            up[..., self.nope_head_dim :],
            seen.mask,
            need_weights=seen.need_weights,
            dropout_keep=seen.dropout_keep,
            dropout_rate=self.dropout.rate,
            **seen.scoring,
        )
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Decode a sentence word by word with a cache of latents; the outputs equal the rows of the full pass."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    attention = fill(
        AbsorbedLatentAttention(
            embed_dim=8,
            num_heads=2,
            kv_lora_rank=4,
            nope_head_dim=3,
            rope_head_dim=2,
            value_head_dim=3,
            position=RotaryEmbedding(2),
        )
    )
    show("AbsorbedLatentAttention", attention(x), words, words)
    cache = GrowingCache()
    for number, word in enumerate(words):
        read = attention(x[:, number : number + 1], cache=cache)
        assert isinstance(read, CachedOutput)
        cache = read.cache
        print(f"{word:>10}", " ".join(f"{feature:.3f}" for feature in read.output[0, 0].tolist()))
    print("cache:", *(tuple(remembered.shape) for remembered in cache.entries))


if __name__ == "__main__":
    main()
