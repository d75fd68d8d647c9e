r"""The attention of pretrained models: grouped heads, with what each family adds.

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(c \tanh\!\left(s\, \hat{q}_h^\top \hat{k}_g / c\right) + b\right) v_g $$

Published models combine mechanisms of the catalogue; each part here is one of them, and absent unless asked for.

| part                   | argument               | mechanism                  | who combines it           |
|------------------------|------------------------|----------------------------|---------------------------|
| fewer key/value heads  | `num_kv_heads`         | `GroupedQueryAttention`    | Llama, Mistral, Falcon    |
| normalised q and k     | `qk_norm`              | `QKNormAttention`          | Qwen 3, Gemma 3           |
| a window               | `window`               | `SlidingWindowAttention`   | Mistral, Gemma 2 and 3    |
| bounded scores, c      | `softcap`              | `SoftcapAttention`         | Gemma 2                   |
| another factor, s      | `scale`                | all of them                | T5, Gemma 2 and 3         |
| positions, b           | `position`, at a call  | `positions`                | all; T5's layers share it |
| a second sequence      | `memory`, at a call    | `MultiHeadCrossAttention`  | T5's decoder              |
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.caches import Cache, KeyValue
from jax_attention.checks import check_divisible, check_pairs, check_sequence
from jax_attention.layers import Factory, linear, normalise, rms_norm
from jax_attention.ops import attend, merge_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput, attention_output
from jax_attention.positions.protocol import place
from jax_attention.positions.rotary import RotaryEmbedding
from jax_attention.recall import check_call, recall


@checked
@dataclass(frozen=True)
class HeadsConfig:
    """The heads of a model's attention.

    Attributes:
        embed_dim: features of input and output.
        num_heads: heads of queries.
        num_kv_heads: heads of keys and values; must divide `num_heads`.
        head_dim: features of a head.
        qkv_bias, out_bias: whether the projections of queries, keys and values, and that of the result have biases.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        softcap: c in c tanh(score / c); None leaves scores unbounded.
        qk_norm: whether queries and keys are divided by their root mean square, head by head.
        norm_eps: added to the mean square in each RMS norm.
        unit_offset: whether these norms multiply by 1 + weight instead of weight.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    scale: float | None = None
    softcap: float | None = None
    qk_norm: bool = False
    norm_eps: float = 1e-6
    unit_offset: bool = False


@checked
@dataclass(frozen=True)
class RopeConfig:
    """How positions turn a model's queries and keys.

    Attributes:
        base: of the frequencies.
        frequencies: one a pair, instead of those that the base gives; see `rotary_scaling`.
        amplitude: factor on what is turned.
        interleaved: whether features 2i and 2i + 1 make a pair, instead of i and i + head_dim / 2.
    """

    base: float = 10000.0
    frequencies: tuple[float, ...] | None = None
    amplitude: float = 1.0
    interleaved: bool = False

    def embedding(self, head_dim: int) -> RotaryEmbedding:
        """What turns heads of so many features."""
        return RotaryEmbedding(
            head_dim,
            base=self.base,
            interleaved=self.interleaved,
            frequencies=self.frequencies,
            amplitude=self.amplitude,
        )


@checked
class ModelAttention(nnx.Module):
    """Grouped-query attention with what the configuration asks for (Ainslie et al. 2023, and the table above).

    Args:
        config: the heads.
        window: how many keys a query sees at most; None for all.
        is_causal: whether no position sees what comes after it.

    Raises:
        ValueError: `num_kv_heads` does not divide `num_heads`.
    """

    def __init__(
        self,
        config: HeadsConfig,
        *,
        window: int | None = None,
        is_causal: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(num_heads=config.num_heads, num_kv_heads=config.num_kv_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, head_dim = config.embed_dim, config.head_dim
        self.config = config
        self.window = window
        self.is_causal = is_causal
        self.q_proj = linear(dim, config.num_heads * head_dim, bias=config.qkv_bias, **factory)
        self.k_proj = linear(dim, config.num_kv_heads * head_dim, bias=config.qkv_bias, **factory)
        self.v_proj = linear(dim, config.num_kv_heads * head_dim, bias=config.qkv_bias, **factory)
        self.out_proj = linear(config.num_heads * head_dim, dim, bias=config.out_bias, **factory)
        if config.qk_norm:
            offset = config.unit_offset
            self.q_norm = rms_norm(head_dim, eps=config.norm_eps, unit_offset=offset, **factory)
            self.k_norm = rms_norm(head_dim, eps=config.norm_eps, unit_offset=offset, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        memory: Float[Array, "batch key embed"] | None = None,
        position: nnx.Module | None = None,
        positions: Int[Array, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput | CachedOutput:
        """Let every position attend to its own sequence, or to `memory`.

        Args:
            x: the sequence that looks.
            mask: True where the query attends to the key, it can only hide more.
            memory: the sequence that is looked at; None for `x` itself. It is never hidden by causality.
            position: what tells queries and keys where they stand; see `positions`.
            positions: where the elements of `x` stand, for `position`; None counts from 0.
            cache: what is remembered of earlier elements, as in `CausalSelfAttention`.
            need_weights: whether to return the weights.

        Returns:
            Output `(batch, length, embed)`, weights `(batch, heads, length, key)` or None, and the cache if one
            was given.

        Raises:
            TypeError, ValueError: a mask that is not boolean; shapes that do not fit.
        """
        heads, window = self.config.num_heads, self.window
        check_sequence("x", x, self.config.embed_dim)
        if memory is None:
            given = x, mask, positions, None, cache
            check_call(*given, position=position, num_heads=heads, is_causal=self.is_causal, window=window)
        else:
            check_sequence("memory", memory, self.config.embed_dim, batch=x.shape[0])
            check_pairs(x, memory, mask, None, heads)
        query = self._normed("q_norm", split_heads(self.q_proj(x), self.config.head_dim))
        looked_at = x if memory is None else memory  # batch key embed
        key = self._normed("k_norm", split_heads(self.k_proj(looked_at), self.config.head_dim))
        value = split_heads(self.v_proj(looked_at), self.config.head_dim)  # batch kv_heads key head_dim
        seen = recall(cache, KeyValue(key, value), mask, positions)
        placed = place(position, query, seen.entries.key, seen.query_positions, seen.key_positions)
        attended, weights = attend(
            placed.query,
            placed.key,
            seen.entries.value,
            placed.bias,
            seen.mask,
            is_causal=self.is_causal and memory is None,
            window=window if memory is None else None,
            query_offset=seen.offset,
            scale=self.config.scale,
            softcap=self.config.softcap,
            need_weights=need_weights,
        )
        return attention_output(self.out_proj(merge_heads(attended)), weights, seen.cache)

    def _normed(
        self, name: str, x: Float[Array, "batch heads length head_dim"]
    ) -> Float[Array, "batch heads length head_dim"]:
        return normalise(getattr(self, name), x) if self.config.qk_norm else x
