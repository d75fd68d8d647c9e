r"""QK-norm attention: queries and keys are normalised, which bounds the scores (Henry et al. 2020).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(\hat{Q}_h \hat{K}_g^\top / \sqrt{d}\right) V_g, \qquad
   \hat{q} = \gamma \odot \frac{q}{\sqrt{\mathrm{mean}(q^2) + \epsilon}} $$

One change from `GroupedQueryAttention`: projected queries and keys are divided by their root mean square and multiplied
by a learned γ, before positional encoding. Models use the name "QK-norm" for different operations:

| class                      | mean over                        | features of γ for queries, keys | model  |
|----------------------------|----------------------------------|---------------------------------|--------|
| `QKNormAttention`          | each head separately             | d, d (shared by all heads)      | Qwen 3 |
| `FullWidthQKNormAttention` | all heads, before they are split | H d, G d                        | OLMo 2 |

With one head the two are equal. (Flax's `normalize_qk` is a LayerNorm of each head; Llama 4's norm has no γ,
see `ChunkedAttention`.)

| symbol | argument       |
|--------|----------------|
| H      | `num_heads`    |
| G      | `num_kv_heads` |
| d      | `head_dim`     |
| ε      | `eps`          |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.caches import KeyValue, Recalled
from jax_attention.checks import check_window
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory
from jax_attention.norms import normalise, rms_norm, unit_rms
from jax_attention.ops import merge_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput


@checked
class QKNormAttention(SelfAttentionFrame):
    """Grouped-query attention with queries and keys normalised per head (Qwen 3, Yang et al. 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        eps: constant added to the mean square.
        unit_offset: whether the norm multiplies by 1 + γ, as in Gemma 3, instead of γ.
        after_position: whether queries and keys are normalised after positional encoding, as in Hunyuan, not before.
        window: number of visible keys, including the query's own; with `is_causal=False`, so many on each side; None
            for no limit.
        value_norm: whether the values of each head are divided by their root mean square, too, without a γ (Gemma 4).
        keys_as_values: whether the projected keys, before their norm, are the values (Gemma 4), without a projection of
            the values.
        shares_kv: whether the layer attends to the keys and values of an earlier layer, which each call gives, instead
            of its own (Brandon et al. 2024).
        position: positional encoding of the normalised queries and keys, such as `RotaryEmbedding`; None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        out_bias: whether the output projection has a bias; None means the same as `bias`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, `after_position` with `shares_kv`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        head_dim: int | None = None,
        eps: float = 1e-6,
        unit_offset: bool = False,
        after_position: bool = False,
        value_norm: bool = False,
        keys_as_values: bool = False,
        shares_kv: bool = False,
        window: int | None = None,
        is_causal: bool = False,
        bias: bool = True,
        out_bias: bool | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        check_window(window, is_causal=True)
        if after_position and shares_kv:
            raise ValueError(
                "after_position must be False with shares_kv=True, whose keys have no norm, got True"
            )
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(
            embed_dim, num_heads, heads.head_dim, is_causal=is_causal, window=window, rngs=rngs, **options
        )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.shares_kv = shares_kv
        self.keys_as_values = keys_as_values
        self.value_eps = eps if value_norm else None
        self.q_proj, key, value, self.out_proj = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.after_position = after_position
        if after_position:
            self.fixed_positions = "its norms follow the rotation, so positions matter, not only distances"
        self.q_norm = rms_norm(self.head_dim, eps=eps, unit_offset=unit_offset, **factory)
        if not shares_kv:
            self.k_proj = key
            self.k_norm = rms_norm(self.head_dim, eps=eps, unit_offset=unit_offset, **factory)
            if not keys_as_values:
                self.v_proj = value

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        shared: Recalled | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with queries and keys normalised per head.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            shared: keys and values of an earlier layer, from its `read`, with `shares_kv`; None for the layer's own.
            cache: KV cache of the earlier positions, if `is_causal`; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        return self.read(x, mask, shared=shared, **call)[0]

    def read(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        shared: Recalled | None = None,
        **call: Unpack[SelfCall],
    ) -> tuple[AttentionOutput | CachedOutput, Recalled]:
        """Apply self-attention; also return keys and values, for later layers that share them."""
        self.check(x, mask, **call)
        if (shared is None) is self.shares_kv:
            given = "None" if shared is None else "keys and values"
            raise ValueError(
                f"shared must be the keys and values of an earlier layer with shares_kv=True alone, got {given}"
            )
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        if not self.after_position:
            query = normalise(self.q_norm, query)
        found = self.recall(self._entries(x), mask, **call) if shared is None else shared
        seen = self.place(found, query, found.entries.key, **call)
        if self.after_position:
            query, key = normalise(self.q_norm, seen.query), normalise(self.k_norm, seen.key)
            seen = seen._replace(query=query, key=key)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights), found

    def _entries(self, x: Float[Array, "batch length embed"]) -> KeyValue:
        """Keys, normalised unless that follows the positions, and values of each head."""
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = key if self.keys_as_values else split_heads(self.v_proj(x), self.head_dim)
        value = value if self.value_eps is None else unit_rms(value, eps=self.value_eps)
        return KeyValue(key if self.after_position else normalise(self.k_norm, key), value)


@checked
class FullWidthQKNormAttention(SelfAttentionFrame):
    """Grouped-query attention with queries and keys normalised over all heads jointly (OLMo 2, 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        eps: constant added to the mean square.
        window: number of visible keys, including the query's own; None for no limit.
        position: positional encoding of the normalised queries and keys, such as `RotaryEmbedding`; None for none.
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
        num_kv_heads: int | None = None,
        *,
        head_dim: int | None = None,
        eps: float = 1e-6,
        window: int | None = None,
        is_causal: bool = False,
        bias: bool = True,
        out_bias: bool | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        check_window(window, is_causal)
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(
            embed_dim, num_heads, heads.head_dim, is_causal=is_causal, window=window, rngs=rngs, **options
        )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        projections = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections
        self.q_norm = rms_norm(num_heads * self.head_dim, eps=eps, **factory)
        self.k_norm = rms_norm(heads.num_kv_heads * self.head_dim, eps=eps, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with queries and keys normalised over all heads.

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
        query = normalise(self.q_norm, self.q_proj(x))  # batch length heads·head_dim
        query = split_heads(query, self.head_dim)  # batch heads length head_dim
        key = normalise(self.k_norm, self.k_proj(x))  # batch length kv_heads·head_dim
        key = split_heads(key, self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show that scaling the input by ten leaves the weights unchanged."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    for cls in (QKNormAttention, FullWidthQKNormAttention):
        attention = fill(cls(embed_dim=8, num_heads=2, bias=False, rngs=nnx.Rngs(0)))
        show(cls.__name__, attention(x), words, words)
        show(f"{cls.__name__}, x ten times as large", attention(10.0 * x), words, words)


if __name__ == "__main__":
    main()
