r"""Streaming attention: sink tokens and a sliding window, for unbounded texts (StreamingLLM, Xiao et al. 2023).

$$ o_i = \sum_{j \in S_i} \alpha_{ij} v_j, \qquad S_i = \{j \le i : j < s \;\text{or}\; i - W < j\}, \qquad
   \alpha_{ij} = \mathrm{softmax}_{j \in S_i}\!\left(q(p_i)^\top k(p_j) / \sqrt{d}\right) $$

One change from `SlidingWindowAttention`: the first s tokens, the sinks, stay visible, because trained models put
surplus softmax weight on them. s = 0 gives `SlidingWindowAttention`.

Positions are counted **inside the cache**, which holds s + W keys for a text of any length. Keys in the window keep
their distance to the query, and the distance to a sink is bounded by the cache size. This class processes a whole text
at once and returns the output of token-by-token decoding with such a cache: the query at text position i scores its
window from position i and the sinks from position min(i, s + W - 1). This requires a relative `position`
(rotary, ALiBi, T5, ...), as in the paper; without positional encoding there is no difference.

| symbol | argument         |
|--------|------------------|
| s      | `num_sinks`      |
| W      | `window`         |
| S_i    | `streaming_mask` |
| d      | `head_dim`       |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.caches import KeyValue
from jax_attention.checks import check_at_least, check_window
from jax_attention.frame import Scaling, SelfAttentionFrame, StreamingCall, grouped_heads
from jax_attention.layers import Factory
from jax_attention.masks import and_masks
from jax_attention.ops import (
    Placed,
    dot_product_scores,
    masked_softmax,
    merge_heads,
    split_heads,
    weighted_values,
)
from jax_attention.outputs import AttentionOutput, CachedOutput
from jax_attention.patterns.blocks import Blocks, blocks_of
from jax_attention.positions.protocol import place


@checked
def streaming_scores(
    position: nnx.Module | None,
    query: Float[Array, "batch heads query head_dim"],
    key: Float[Array, "batch kv_heads key head_dim"],
    mask: Bool[Array, "..."] | None = None,
    *,
    num_sinks: int,
    window: int,
    scale: float | None = None,
    query_places: Int[Array, "... query"] | None = None,
    key_places: Int[Array, "... key"] | None = None,
) -> tuple[Float[Array, "batch heads query key"], Bool[Array, "..."] | None]:
    """Compute `dot_product_scores` with positions counted inside the cache.

    Args:
        position: relative positional encoding, such as `RotaryEmbedding`; None for none.
        query, key: queries and keys before positional encoding; the first keys are the sinks.
        mask: boolean mask, True where a query may attend to a key; None for no mask.
        num_sinks: number of sinks in the cache.
        window: number of recent keys in the cache, including the query's own.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        query_places, key_places: positions in the text, `(length)` or `(batch, length)`; None counts from 0.

    Returns:
        Scores, and one mask that combines all restrictions.
    """
    query_places = jnp.arange(query.shape[2]) if query_places is None else query_places
    key_places = jnp.arange(key.shape[2]) if key_places is None else key_places
    asking, asked = query_places[..., None], key_places[..., None, :]
    seen = (asked <= asking) & ((asked < num_sinks) | (asked > asking - window))  # ... query key
    seen = seen if mask is None else and_masks(seen, mask)
    placed = place(position, query, key, query_places, key_places)
    scores, visible = dot_product_scores(placed.query, placed.key, placed.bias, seen, scale=scale)
    if position is None or num_sinks == 0:
        return scores, visible
    sinks = key[:, :, :num_sinks]  # batch kv_heads sinks head_dim
    in_cache = jnp.clip(query_places, 0, num_sinks + window - 1)  # query
    near = place(position, query, sinks, in_cache, jnp.arange(sinks.shape[2]))
    to_sinks, _ = dot_product_scores(near.query, near.key, near.bias, scale=scale)  # batch heads query sinks
    return jnp.concatenate([to_sinks, scores[..., num_sinks:]], axis=-1), visible


@checked
class StreamingAttention(SelfAttentionFrame):
    """Causal self-attention to sink tokens and a sliding window (Xiao et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        window: number of visible recent keys, including the query's own.
        num_sinks: number of first keys that stay visible; 4 in the paper.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        position: relative positional encoding (e.g. `RotaryEmbedding`, `ALiBi`) of positions in the cache; None for
            none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        out_bias: whether the output projection has a bias; None means the same as `bias`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a window below 1, a negative `num_sinks`, a `position` with several coordinates, sizes that do not
            divide, or a rate outside [0, 1).
    """

    window: int

    fixed_positions = "its sinks are the first tokens"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        num_sinks: int = 4,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        check_window(window, is_causal=True)
        check_at_least(0, num_sinks=num_sinks)
        _check_one_coordinate(options.get("position"))
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(
            embed_dim,
            num_heads,
            heads.head_dim,
            is_causal=True,
            window=window,
            num_sinks=num_sinks,
            rngs=rngs,
            **options,
        )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        projections = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[StreamingCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal self-attention to the sinks and the sliding window.

        There is no argument `positions`, because the positions in the cache follow from the pattern.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; combined with the pattern. None for no mask.
            cache: any KV cache of the earlier positions; `RollingCache(window, num_sinks)` stores only the visible
                keys. None without one.
            need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        if self.is_cut(**call):
            blocks = blocks_of(x.shape[1], self.window - 1, 0, first=self.num_sinks)
            if blocks is not None:
                heads = self._in_blocks(blocks, query, key, value, mask, call.get("dropout_keep"))
                return AttentionOutput(self.out_proj(merge_heads(heads)), None)
        found = self.recall(KeyValue(key, value), mask, **call)
        scores, visible = streaming_scores(
            self.position,
            query,
            found.entries.key,
            found.mask,
            num_sinks=self.num_sinks,
            window=self.window,
            scale=self.scale,
            query_places=found.query_positions,
            key_places=found.key_positions,
        )
        weights = masked_softmax(scores, visible)  # batch heads length length
        seen = self.placed(found, Placed(query, found.entries.key, None), found.entries.value, **call)
        return seen.answer(self.out_proj(merge_heads(seen.read(weights))), weights)

    def _in_blocks(
        self,
        blocks: Blocks,
        query: Float[Array, "batch heads length head_dim"],
        key: Float[Array, "batch kv_heads length head_dim"],
        value: Float[Array, "batch kv_heads length head_dim"],
        mask: Bool[Array, "..."] | None,
        dropout_keep: Bool[Array, "batch heads length length"] | None,
    ) -> Float[Array, "batch heads length head_dim"]:
        batch, heads, length, _ = query.shape
        query, key, value = blocks.queries(query), blocks.keys(key), blocks.keys(value)
        query_places, key_places = blocks.places(None, None, batch)  # blocks size, blocks span
        scores, visible = streaming_scores(
            self.position,
            query,
            key,
            blocks.visible(lambda i, j: j >= 0, mask, (batch, heads, length, length)),
            num_sinks=self.num_sinks,
            window=self.window,
            scale=self.scale,
            query_places=query_places,
            key_places=key_places,
        )
        read = weighted_values(
            masked_softmax(scores, visible),
            value,
            dropout_keep=self.dropout.keep_weights(query, key, blocks.kept(dropout_keep)),
            dropout_rate=self.dropout.rate,
        )
        return blocks.join(read)


def _check_one_coordinate(position: nnx.Module | None) -> None:
    num_axes = getattr(position, "num_axes", None)
    if num_axes is not None:
        raise ValueError(
            f"position must take one coordinate, the position in the cache, got num_axes={num_axes}"
        )


def main() -> None:
    """Show a sentence whose first word stays visible to every later word."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.masks import mask_text, streaming_mask
    from jax_attention.positions import RotaryEmbedding

    words = ["the", "cat", "sat", "quite", "still"]
    print(mask_text(streaming_mask(5, num_sinks=1, window=2)))
    attention = fill(
        StreamingAttention(
            embed_dim=8, num_heads=2, window=2, num_sinks=1, position=RotaryEmbedding(4), rngs=nnx.Rngs(0)
        )
    )
    show("StreamingAttention", attention(draw(1, 5, 8)), words, words)


if __name__ == "__main__":
    main()
