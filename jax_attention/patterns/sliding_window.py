r"""Sliding-window attention: every position sees its neighbours back to a fixed distance (Child et al. 2019).

$$ o_i = \sum_{i - W < j \le i} \alpha_{ij} v_j, \qquad
   \alpha_{ij} = \mathrm{softmax}_{i - W < j \le i}\!\left(q_i^\top k_j / \sqrt{d}\right) $$

One change from `CausalSelfAttention`: what is W positions back or further is no longer seen, so a cache never holds
more than W keys. Layers stacked L high still reach L (W - 1) positions back (Mistral, Jiang et al. 2023).

W counts the keys that are seen, the query's own among them. Others count otherwise:

| who                                                           | its number for our W |
|---------------------------------------------------------------|----------------------|
| transformers and Keras `sliding_window`                       | W                    |
| `jax.nn` `local_window_size`, x-transformers `max_attend_past` | W - 1                |

| symbol | argument   |
|--------|------------|
| W      | `window`   |
| d      | `head_dim` |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.caches import Cache, KeyValue
from jax_attention.checks import check_divisible, check_sequence, check_window
from jax_attention.layers import Dropout, Factory, linear
from jax_attention.ops import attend, merge_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput, attention_output
from jax_attention.patterns.blocks import adds_bias, blocks_of, local_attention
from jax_attention.positions.protocol import check_scheme, place
from jax_attention.recall import check_call, recall


@checked
class SlidingWindowAttention(nnx.Module):
    """Causal self-attention to the last `window` positions, the own one included (Child et al. 2019).

    Args:
        embed_dim: features of input and output.
        num_heads: heads of queries.
        window: how many keys a query sees at most.
        num_kv_heads: heads of keys and values; must divide `num_heads`; as many if None.
        head_dim: features of a head; `embed_dim / num_heads` if None.
        position: what tells queries and keys where they stand; see `positions`.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: rate at which weights are dropped in training.

    Raises:
        ValueError: a window below 1, sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        position: nnx.Module | None = None,
        scale: float | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_window(window, is_causal=True)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_divisible(num_heads=num_heads, num_kv_heads=num_kv_heads)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.window = window
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, num_kv_heads * self.head_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, num_kv_heads * self.head_dim, bias=bias, **factory)
        self.out_proj = linear(num_heads * self.head_dim, embed_dim, bias=bias, **factory)
        self.position = position
        self.scale = scale
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length length"] | None = None,
    ) -> AttentionOutput | CachedOutput:
        """Let every position attend to those in its window; the rest as in `CausalSelfAttention`.

        The window counts elements of the sequence; `positions` are for `position` alone.
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
            window=self.window,
        )
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        is_plain = mask is None and dropout_keep is None and not self.dropout.draws
        is_plain = is_plain and not adds_bias(self.position, query, key)
        if not need_weights and cache is None and not is_plain:  # fused kernels are told of windows alone
            blocks = blocks_of(x.shape[1], self.window - 1, 0)
            if blocks is not None:
                heads = local_attention(
                    blocks,
                    self.position,
                    query,
                    key,
                    value,
                    mask,
                    sees=lambda i, j: (j <= i) & (j > i - self.window),
                    positions=positions,
                    scale=self.scale,
                    dropout=self.dropout,
                    dropout_keep=dropout_keep,
                )
                return attention_output(self.out_proj(merge_heads(heads)), None, None)
        seen = recall(cache, KeyValue(key, value), mask, positions)
        placed = place(self.position, query, seen.entries.key, seen.query_positions, seen.key_positions)
        heads, weights = attend(
            placed.query,
            placed.key,
            seen.entries.value,
            placed.bias,
            seen.mask,
            is_causal=True,
            window=self.window,
            query_offset=seen.offset,
            scale=self.scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, placed.key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return attention_output(self.out_proj(merge_heads(heads)), weights, seen.cache)


def main() -> None:
    """Show a window of two words slide over a sentence."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.masks import mask_text, sliding_window_mask

    words = ["the", "cat", "sat", "still"]
    print(mask_text(sliding_window_mask(4, window=2)))
    attention = fill(SlidingWindowAttention(embed_dim=6, num_heads=2, window=2, rngs=nnx.Rngs(0)))
    show("SlidingWindowAttention", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
