r"""Multi-head latent attention: one low-rank latent per token gives all keys and values (DeepSeek-AI 2024).

$$ c_t = \mathrm{norm}(W_{DKV}\, x_t), \quad [k^C_{t,h}; v_{t,h}] = W_{UKV,h}\, c_t, \quad
   k_{t,h} = [k^C_{t,h}; R_t W_{KR}\, x_t], \quad q_{t,h} = [q^C_{t,h}; R_t q^R_{t,h}] $$

One change from `MultiHeadSelfAttention`: the cache holds only the latent $c_t$ of each token and one small key that all
heads share. Only this shared key carries the rotary embedding; `AbsorbedLatentAttention` explains why.

| symbol          | argument or parameter                                                                      |
|-----------------|--------------------------------------------------------------------------------------------|
| W_DKV, W_KR     | the first `kv_lora_rank` and the last `rope_head_dim` rows of `kv_a_proj`                  |
| W_UKV           | `kv_b_proj`: per head `nope_head_dim` rows for keys, then `value_head_dim` for values      |
| $q^C$, $q^R$    | the first `nope_head_dim` and the last `rope_head_dim` features of a head's query          |
| $R_t$           | `position`                                                                                 |
"""

from typing import NamedTuple, Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.caches import Recalled
from jax_attention.checks import check_positive
from jax_attention.frame import Scaled, SelfAttentionFrame, SelfCall
from jax_attention.layers import Factory, linear
from jax_attention.norms import normalise, rms_norm
from jax_attention.ops import Placed, merge_heads, repeat_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput
from jax_attention.positions.protocol import place
from jax_attention.positions.rotary import RotaryEmbedding


class Latents(NamedTuple):
    """Cache entries of latent attention.

    Attributes:
        latent: normalised latents, `(batch, length, kv_lora_rank)`.
        rope_key: key shared by all heads, `(batch, length, rope_head_dim)`; stored before its rotation.
    """

    latent: Float[Array, "batch length rank"]
    rope_key: Float[Array, "batch length rope_dim"]


@checked
class _LatentProjections(SelfAttentionFrame):
    """Parameters and projections shared by both forms of latent attention."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_lora_rank: int,
        nope_head_dim: int,
        rope_head_dim: int,
        value_head_dim: int,
        *,
        position: RotaryEmbedding | None,
        q_lora_rank: int | None = None,
        is_causal: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaled],
    ):
        check_positive(
            num_heads=num_heads,
            kv_lora_rank=kv_lora_rank,
            nope_head_dim=nope_head_dim,
            rope_head_dim=rope_head_dim,
            value_head_dim=value_head_dim,
        )
        if position is not None and position.head_dim != rope_head_dim:
            raise ValueError(
                f"position must rotate rope_head_dim={rope_head_dim} features, got head_dim={position.head_dim}"
            )
        query_head_dim = nope_head_dim + rope_head_dim
        super().__init__(
            embed_dim,
            num_heads,
            query_head_dim,
            is_causal=is_causal,
            position=position,
            placed_dim=rope_head_dim,
            rngs=rngs,
            **options,
        )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.q_lora_rank = q_lora_rank
        self.kv_lora_rank = kv_lora_rank
        self.nope_head_dim = nope_head_dim
        self.rope_head_dim = rope_head_dim
        self.value_head_dim = value_head_dim
        self.query_head_dim = query_head_dim
        if q_lora_rank is None:
            self.q_proj = linear(embed_dim, num_heads * self.query_head_dim, bias=False, **factory)
        else:
            self.q_a_proj = linear(embed_dim, q_lora_rank, bias=False, **factory)
            self.q_a_norm = rms_norm(q_lora_rank, eps=1e-6, **factory)
            self.q_b_proj = linear(q_lora_rank, num_heads * self.query_head_dim, bias=False, **factory)
        self.kv_a_proj = linear(embed_dim, kv_lora_rank + rope_head_dim, bias=False, **factory)
        self.kv_a_norm = rms_norm(kv_lora_rank, eps=1e-6, **factory)
        self.kv_b_proj = linear(
            kv_lora_rank, num_heads * (nope_head_dim + value_head_dim), bias=False, **factory
        )
        self.out_proj = linear(num_heads * value_head_dim, embed_dim, bias=False, **factory)

    def _read(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None,
        **call: Unpack[SelfCall],
    ) -> tuple[Float[Array, "batch heads length head_dim"], Recalled]:
        """Project `x`, update the cache, and rotate the rotary parts of queries and keys."""
        query = (
            self.q_proj(x)
            if self.q_lora_rank is None
            else self.q_b_proj(normalise(self.q_a_norm, self.q_a_proj(x)))
        )  # batch length heads * head_dim
        query = split_heads(query, self.query_head_dim)  # batch heads length head_dim
        joint = self.kv_a_proj(x)  # batch length rank + rope_dim
        latent = normalise(self.kv_a_norm, joint[..., : self.kv_lora_rank])  # batch length rank
        found = self.recall(Latents(latent, joint[..., self.kv_lora_rank :]), mask, **call)
        placed = place(
            self.position,
            query[..., self.nope_head_dim :],  # batch heads length rope_dim
            found.entries.rope_key[:, None],  # batch 1 slots rope_dim
            found.query_positions,
            found.key_positions,
        )
        query = jnp.concatenate([query[..., : self.nope_head_dim], placed.query], axis=-1)
        return query, found._replace(entries=Latents(found.entries.latent, placed.key[:, 0]))


@checked
class MultiHeadLatentAttention(_LatentProjections):
    """Multi-head self-attention whose keys and values are expanded from one latent per token (DeepSeek-AI 2024).

    The projections have no biases, and both latent norms use an eps of 1e-6, as in DeepSeek-V2 and V3.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        kv_lora_rank: features of the latent.
        nope_head_dim: features of a head's query and key without positional encoding.
        rope_head_dim: features of a head's query, and of the shared key, with rotary positional encoding.
        value_head_dim: features of a head's value.
        position: rotary embedding of the `rope_head_dim` features: `RotaryEmbedding(rope_head_dim, interleaved=True)`
            in DeepSeek's models; None for none, as in Kimi Linear.
        q_lora_rank: features of the query latent; None projects queries directly from `x`.
        scale: factor on the scores; `1 / sqrt(nope_head_dim + rope_head_dim)` if None.
        is_causal: whether each position attends only to itself and earlier positions.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a size below 1, a `position` whose `head_dim` is not `rope_head_dim`, or a rate outside [0, 1).
    """

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Expand the latents to keys and values, and apply self-attention.

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
        latent, rope_key = found.entries
        expanded = split_heads(self.kv_b_proj(latent), self.nope_head_dim + self.value_head_dim)
        key, value = expanded[..., : self.nope_head_dim], expanded[..., self.nope_head_dim :]
        shared = repeat_heads(rope_key[:, None], self.num_heads)  # batch heads length rope_dim
        key = jnp.concatenate([key, shared], axis=-1)  # batch heads length head_dim
        seen = self.placed(found, Placed(query, key, None), value, **call)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show two heads whose keys and values come from a latent of four features."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    attention = fill(
        MultiHeadLatentAttention(
            embed_dim=8,
            num_heads=2,
            kv_lora_rank=4,
            nope_head_dim=3,
            rope_head_dim=2,
            value_head_dim=3,
            position=RotaryEmbedding(2),
            rngs=nnx.Rngs(0),
        )
    )
    show("MultiHeadLatentAttention", attention(x), words, words)


if __name__ == "__main__":
    main()
