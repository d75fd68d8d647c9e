r"""Persistent memory: learned keys and values in addition to the sequence's own (Sukhbaatar et al. 2019).

$$ o_i = \sum_j \alpha_{ij} v_j + \sum_m \alpha_{im} \tilde v_m, \qquad
   \alpha_i = \mathrm{softmax}\left([K q_i; \tilde K q_i] / \sqrt{d}\right) $$

One change from `MultiHeadSelfAttention`: learned keys and values, the memories, are appended to the sequence's own.
Every query attends to them, regardless of the mask, and they have no positional encoding. A query whose other keys are
all masked attends to the memories alone. The weights have one further column per memory, after the columns of the keys.

`torch.nn.MultiheadAttention(add_bias_kv=True)` has one such memory; the option `num_mem_kv` of x-transformers has
several.

| symbol                     | parameter                    |                                                 |
|----------------------------|------------------------------|-------------------------------------------------|
| $\tilde k_m$, $\tilde v_m$ | `memory_key`, `memory_value` | `(num_memories, embed_dim)`, split into heads   |
"""

from typing import Unpack

import jax.numpy as jnp
from einops import repeat
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Shaped

from jax_attention.arguments import checked
from jax_attention.caches import KeyValue
from jax_attention.checks import check_keep, check_positive
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, parameter
from jax_attention.ops import merge_heads, split_heads
from jax_attention.ops.definition import call_masks
from jax_attention.outputs import AttentionOutput, CachedOutput


@checked
def append_memories(
    x: Float[Array, "batch heads length head_dim"], memories: Float[Array, "memories features"]
) -> Float[Array, "batch heads length_and_memories head_dim"]:
    """Append memories, split into heads, to the keys or values of every sequence."""
    batch, heads = x.shape[:2]
    cut = repeat(memories.astype(x.dtype), "m (h d) -> b h m d", b=batch, h=heads)
    return jnp.concatenate([x, cut], axis=-2)


@checked
def append_columns(
    x: Shaped[Array, "*rows columns"], count: int, value: float | bool
) -> Shaped[Array, "*rows more_columns"]:
    """Append `count` columns of one value to a mask or bias."""
    more = jnp.full((*x.shape[:-1], count), value, dtype=x.dtype)
    return jnp.concatenate([x, more], axis=-1)


@checked
class PersistentMemoryAttention(SelfAttentionFrame):
    """Multi-head self-attention to the sequence and to learned memories (Sukhbaatar et al. 2019).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        num_memories: number of learned keys and values.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none. Memories have no
            position.
        is_causal: whether each position attends only to itself, earlier positions and the memories.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, `num_memories` below 1, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_memories: int = 1,
        *,
        is_causal: bool = False,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        check_positive(num_memories=num_memories)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=is_causal, rngs=rngs, **options)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.num_memories = num_memories
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)
        self.memory_key = parameter(num_memories, embed_dim, **factory)
        self.memory_value = parameter(num_memories, embed_dim, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention to the sequence and the memories.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask. It has no columns for
                memories.
            cache: with `is_causal`, a KV cache as in `CausalSelfAttention`; it does not hold the memories.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one. It has columns for the
                memories.
            positions, lengths, segments, need_weights, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length + num_memories)`; with a
            cache, the columns before the memories are the cached keys.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a cache that does not.
        """
        without = call.copy()
        keep = without.pop("dropout_keep", None)  # with columns for the memories
        self.check(x, mask, **(call if call.get("cache") is not None else without))
        batch, length = x.shape[:2]
        check_keep(keep, (batch, self.num_heads, length, length + self.num_memories))
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        _, shown = call_masks(seen._replace(bias=None, dropout_keep=None).call())
        seen = seen._replace(
            key=append_memories(seen.key, self.memory_key[...]),
            value=append_memories(seen.value, self.memory_value[...]),
            bias=None if seen.bias is None else append_columns(seen.bias, self.num_memories, 0.0),
            mask=None if shown is None else append_columns(shown, self.num_memories, True),
            scoring={"scale": self.scale},
        )
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show a query whose keys are all masked, and which attends to the memories alone."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    attention = fill(PersistentMemoryAttention(embed_dim=6, num_heads=2, num_memories=2, rngs=nnx.Rngs(0)))
    mask = jnp.asarray([[False, False, False], [True, True, False], [True, True, True]])
    show("PersistentMemoryAttention", attention(draw(1, 3, 6), mask), words, [*words, "one", "two"])


if __name__ == "__main__":
    main()
