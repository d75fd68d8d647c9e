r"""Latent attention for decoding: it scores latents and averages latents, and makes no key (DeepSeek-AI 2024).

$$ {q^C_{t,h}}^\top (W_{UK,h}\, c_s) = (W_{UK,h}^\top q^C_{t,h})^\top c_s, \qquad
   \sum_s \alpha_{ts} (W_{UV,h}\, c_s) = W_{UV,h} \sum_s \alpha_{ts}\, c_s $$

One change from `MultiHeadLatentAttention`: the two maps from a latent are taken to the query and behind the mean.
What is left is multi-query attention on the cache. A rotation between $W_{UK}$ and the query would forbid this, as
it differs from pair to pair; so position turns another, small part of the key.

| symbol     | parameter                                                                    |
|------------|------------------------------------------------------------------------------|
| W_UK, W_UV | of each head the first `nope_head_dim` and the other rows of `kv_b_proj`     |
| c          | `cache.latent`                                                               |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.checks import align, check_boolean, check_keep, check_sequence, check_state
from jax_attention.heads.latent import LatentCache, _LatentProjections
from jax_attention.layers import weight_matrix
from jax_attention.ops import Scoring, at_least_float32, attend, merge_heads
from jax_attention.outputs import AttentionOutput, RecurrentOutput
from jax_attention.positions.protocol import check_positions
from jax_attention.positions.rotary import RotaryEmbedding


def absorbed_latent_attention(
    query: Float[Array, "batch heads query head_dim"],
    cache: LatentCache,
    key_up: Float[Array, "rank heads nope_dim"],
    value_up: Float[Array, "rank heads value_dim"],
    mask: Bool[Array, "..."] | None = None,
    *,
    need_weights: bool = True,
    dropout_keep: Bool[Array, "..."] | None = None,
    dropout_rate: float = 0.0,
    **scoring: Unpack[Scoring],
) -> tuple[Float[Array, "batch heads query value_dim"], Float[Array, "batch heads query key"] | None]:
    """Attention to latents: W_UK goes to the query's side and W_UV behind the mean (DeepSeek-AI 2024, 2.1.2).

    Args:
        query: of each head the part that meets latents, then the part that meets `cache.rope_key`.
        cache: what is looked at.
        key_up: W_UK, from a latent to a head's key.
        value_up: W_UV, from a latent to a head's value.
        mask, need_weights, dropout_keep, dropout_rate, scoring: as in `attend`; `scale` is
            `1 / sqrt(head_dim)` if None, of the query as it is given.

    Returns:
        As `attend` would with all keys and values made.
    """
    latent, rope_key = at_least_float32(cache.latent), at_least_float32(cache.rope_key)
    wide, nope_dim = at_least_float32(query), key_up.shape[-1]
    absorbed = jnp.einsum("bhqd,rhd->bhqr", wide[..., :nope_dim], key_up.astype(wide.dtype))
    given = scoring.get("scale")
    scoring["scale"] = query.shape[-1] ** -0.5 if given is None else given
    heads, weights = attend(
        jnp.concatenate([absorbed, wide[..., nope_dim:]], axis=-1),  # batch heads query rank + rope_dim
        jnp.concatenate([latent, rope_key], axis=-1)[:, None],  # batch 1 key rank + rope_dim
        latent[:, None],  # batch 1 key rank
        None,
        mask,
        need_weights=need_weights,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
        **scoring,
    )
    values = jnp.einsum("bhqr,rhd->bhqd", heads, value_up.astype(wide.dtype))  # batch heads query value_dim
    return values.astype(query.dtype), weights


class AbsorbedLatentAttention(_LatentProjections):
    """`MultiHeadLatentAttention` for decoding: it reads and returns a cache of latents (DeepSeek-AI 2024).

    Same arguments, same parameters, same numbers; it costs more arithmetic a pair and less memory a position, so it
    wins where queries are few and cached positions many.
    """

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        cache: LatentCache | None = None,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length key"] | None = None,
    ) -> RecurrentOutput:
        """Let every position of `x` attend to the cached positions and to those of `x`.

        Args:
            x: the sequence, or what comes next of it.
            mask: True where the query attends to the key; keys are the cached ones, then those of `x`.
            cache: what an earlier call returned as its state; None begins a sequence.
            positions: where each element of `x` stands; None counts on from the cached ones.
            need_weights: whether to return the weights; without them the fastest implementation runs.
            dropout_keep: False where a weight is dropped; stands for the draw.

        Returns:
            Output `(batch, length, embed_dim)`, the cache with `x` in it, and weights
            `(batch, heads, length, cached + length)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.embed_dim)
        batch, length, _ = x.shape
        cached = 0
        if cache is not None:
            check_sequence("cache.latent", cache.latent, self.kv_lora_rank, batch=batch)
            cached = cache.latent.shape[1]
            check_state("cache.rope_key", cache.rope_key, (batch, cached, self.rope_head_dim))
        shape = (batch, self.num_heads, length, cached + length)
        if mask is not None:
            check_boolean("mask", mask)
            align("mask", mask, shape)
        check_keep(dropout_keep, shape)
        check_positions("positions", positions, x, self.position)
        if positions is None:
            positions = jnp.arange(cached, cached + length)
        query, new = self._queries_and_latents(x, positions)
        if cache is not None:
            new = LatentCache(
                jnp.concatenate([cache.latent, new.latent], axis=1),
                jnp.concatenate([cache.rope_key, new.rope_key], axis=1),
            )
        up = weight_matrix(self.kv_b_proj).reshape(self.kv_lora_rank, self.num_heads, -1)
        heads, weights = absorbed_latent_attention(
            query,
            new,
            up[..., : self.nope_head_dim],
            up[..., self.nope_head_dim :],
            mask,
            is_causal=self.is_causal,
            query_offset=cached,
            scale=self.scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, new.latent[:, None], dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return RecurrentOutput(self.out_proj(merge_heads(heads)), new, weights)


def main() -> None:
    """Read a sentence word by word from a cache of latents; each word prints what it would print in the whole."""
    from jax_attention.demonstration import draw, fill, show

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
            rngs=nnx.Rngs(0),
        )
    )
    output, cache, weights = attention(x)
    show("AbsorbedLatentAttention", AttentionOutput(output, weights), words, words)
    print("cache:", *(tuple(remembered.shape) for remembered in cache))
    cache = None
    for number, word in enumerate(words):
        output, cache, _ = attention(x[:, number : number + 1], cache=cache)
        print(f"{word:>10}", " ".join(f"{feature:.3f}" for feature in output[0, 0].tolist()))


if __name__ == "__main__":
    main()
