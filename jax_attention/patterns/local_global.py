"""Longformer attention in linear time: local keys in blocks, global tokens in tiles.

The number of global tokens varies, so they are sorted to the front to fill few tiles, and tiles without any are
skipped. Compiled PyTorch code cannot branch on the data and computes all tiles.
"""

from functools import partial
from typing import Any, Unpack

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arrays import stable_order, take_along
from jax_attention.checks import align
from jax_attention.frame import SelfAttentionFrame, SelfCall
from jax_attention.ops import (
    at_least_float32,
    dot_product_scores,
    masked_softmax,
    weighted_values,
)
from jax_attention.ops.arrays import sum_by_slot
from jax_attention.ops.tile_sums import maximum_of_tiles, sum_of_tiles, tile_count
from jax_attention.patterns.blocks import Blocks, counted
from jax_attention.positions.protocol import place

FEW = 64  # global tokens per tile


def is_near(query: Int[Array, "..."], key: Int[Array, "..."], *, one_sided_window: int) -> Bool[Array, "..."]:
    """Whether a key is within `one_sided_window` of a query, from their indices."""
    return (key <= query + one_sided_window) & (key >= query - one_sided_window)


class GlobalTokens:
    """Global tokens of a batch, grouped into tiles.

    Args:
        is_global: mask of the tokens, True where a token is global.

    Attributes:
        order: token indices with the global tokens first, `(batch, length)`.
        numbers: number of global tokens in each batch element.
        count: number of tiles that hold a global token.
    """

    def __init__(self, is_global: Bool[Array, "batch length"]):
        length = is_global.shape[1]
        self.order = stable_order(~is_global)  # batch length, global tokens first
        self.numbers = is_global.sum(-1, dtype=jnp.int32)  # batch
        self.count = tile_count(self.numbers, length, FEW)

    def tile(self, number: Any) -> tuple[Int[Array, "batch few"], Bool[Array, "batch few"]]:
        """Token indices of a tile, and which of them are global; the others are padding."""
        at = number * FEW + jnp.arange(FEW, dtype=jnp.int32)  # few
        tokens = self.order[:, jnp.clip(at, max=self.order.shape[1] - 1)]  # batch few
        return tokens, at[None] < self.numbers[:, None]


def local_and_global_heads(
    layer: SelfAttentionFrame,
    blocks: Blocks,
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    mask: Bool[Array, "..."] | None,
    global_tokens: Bool[Array, "batch length"],
    *,
    one_sided_window: int,
    **call: Unpack[SelfCall],
) -> Float[Array, "batch heads length head_dim"]:
    """Compute the rows of non-global queries: local keys in blocks, global keys in tiles.

    The global keys together act as one further key, whose score is the log-sum-exp of their scores.
    """
    batch, _, length, _ = query.shape
    shape = (*query.shape[:3], length)
    allowed = None if mask is None else align("mask", mask, shape)
    is_global = global_tokens[:, None, None]  # batch 1 1 length
    read, log_sum = read_global_keys(layer, query, key, value, allowed, GlobalTokens(global_tokens), **call)
    found = log_sum > -jnp.inf  # batch heads length

    sees = partial(is_near, one_sided_window=one_sided_window)
    near = blocks.visible(sees, ~is_global if allowed is None else ~is_global & allowed, shape)
    places = blocks.places(call.get("positions"), layer.position, batch)
    placed = place(layer.position, blocks.queries(query), blocks.keys(key), *places)
    scores, near = dot_product_scores(
        placed.query, placed.key, placed.bias, near, scale=layer.scale
    )  # blocks heads size span
    assert near is not None  # distant keys are masked
    one_more = blocks.queries(jnp.where(found, log_sum, 0.0)[..., None])  # blocks heads size 1
    visible = [jnp.broadcast_to(near, scores.shape), blocks.queries(found[..., None])]
    weights = masked_softmax(
        jnp.concatenate([scores, one_more], axis=-1), jnp.concatenate(visible, axis=-1)
    )  # blocks heads size span+1
    keep = blocks.kept(call.get("dropout_keep"))
    heads = weighted_values(
        weights[..., :-1],
        at_least_float32(blocks.keys(value)),
        dropout_keep=layer.dropout.keep_weights(placed.query, placed.key, keep),
        dropout_rate=layer.dropout.rate,
    )
    return blocks.join(heads + weights[..., -1:] * blocks.queries(read)).astype(value.dtype)


def read_global_keys(
    layer: SelfAttentionFrame,
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    allowed: Bool[Array, "..."] | None,
    global_tokens: GlobalTokens,
    **call: Unpack[SelfCall],
) -> tuple[Float[Array, "batch heads length head_dim"], Float[Array, "batch heads length"]]:
    """Attend to the global keys alone; also return the log-sum-exp of their scores, -inf without any."""
    batch, _, length, _ = query.shape
    dropout, dropout_keep = layer.dropout, call.get("dropout_keep")
    places = counted(call.get("positions"), layer.position, batch, length)
    seed = dropout.seed() if dropout_keep is None else None

    def scores_of(number: Any) -> tuple[Any, Any, Int[Array, "batch few"]]:
        tokens, there = global_tokens.tile(number)
        offered = take_tokens(key, tokens)  # batch heads few head_dim
        placed = place(layer.position, query, offered, places, take_positions(places, tokens))
        seen = there[:, None, None]  # batch 1 1 few
        seen = seen if allowed is None else seen & take_tokens(allowed, tokens, -1)
        scores, visible = dot_product_scores(placed.query, placed.key, placed.bias, seen, scale=layer.scale)
        return scores, visible, tokens

    def largest(number: Any) -> Float[Array, "batch heads length"]:
        scores, visible, _ = scores_of(number)
        return jnp.amax(jnp.where(visible, scores, -jnp.inf), axis=-1)

    top = maximum_of_tiles(global_tokens.count, largest)  # batch heads length
    level = jnp.where(top > -jnp.inf, top, 0.0)  # -inf - -inf would be NaN

    def term(number: Any) -> tuple[Array, Array]:
        scores, visible, tokens = scores_of(number)
        shares = jnp.exp(jnp.where(visible, scores - level[..., None], -jnp.inf))  # batch heads length few
        if dropout_keep is None:
            keep = dropout.keep_tile(tuple(shares.shape), shares, seed, number)
        else:
            keep = take_tokens(dropout_keep, tokens, -1)
        offered = at_least_float32(take_tokens(value, tokens))
        read = weighted_values(shares, offered, dropout_keep=keep, dropout_rate=dropout.rate)
        return read, shares.sum(-1)

    read, total = sum_of_tiles(global_tokens.count, term)
    found = total > 0
    total = jnp.where(found, total, 1.0)
    return read / total[..., None], jnp.where(found, level + jnp.log(total), -jnp.inf)


def heads_of_global_tokens(
    layer: SelfAttentionFrame,
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    mask: Bool[Array, "..."] | None,
    global_tokens: Bool[Array, "batch length"],
    **call: Unpack[SelfCall],
) -> Float[Array, "batch heads length head_dim"]:
    """Compute the rows of global queries in tiles; zeros for the other queries."""
    batch, _, length, _ = query.shape
    dropout, dropout_keep = layer.dropout, call.get("dropout_keep")
    allowed = None if mask is None else align("mask", mask, (*query.shape[:3], length))
    places = counted(call.get("positions"), layer.position, batch, length)
    asking = GlobalTokens(global_tokens)
    seed = dropout.seed() if dropout_keep is None else None

    def term(number: Any) -> Float[Array, "batch heads length head_dim"]:
        tokens, there = asking.tile(number)
        asked = take_tokens(query, tokens)  # batch heads few head_dim
        placed = place(layer.position, asked, key, take_positions(places, tokens), places)
        if dropout_keep is None:
            shape = (*placed.query.shape[:-1], length)
            keep = dropout.keep_tile(shape, placed.query, seed, number)
        else:
            keep = take_tokens(dropout_keep, tokens)
        seen = None if allowed is None else take_tokens(allowed, tokens)
        scores, seen = dot_product_scores(placed.query, placed.key, placed.bias, seen, scale=layer.scale)
        read = weighted_values(
            masked_softmax(scores, seen), value, dropout_keep=keep, dropout_rate=dropout.rate
        )  # batch heads few head_dim
        read = jnp.where(there[:, None, :, None], read, 0.0).swapaxes(-1, -2)
        slot = jnp.broadcast_to(tokens[:, None, None], read.shape)  # batch heads head_dim few
        return sum_by_slot(read, slot, length).swapaxes(-1, -2)

    return sum_of_tiles(asking.count, term)


def take_tokens(
    x: Shaped[Array, "..."], tokens: Int[Array, "batch few"], axis: int = -2
) -> Shaped[Array, "..."]:
    """Select elements along axis -2 or -1, per batch element; an axis of size 1 is shared and stays."""
    if x.shape[axis] == 1:
        return x
    return take_along(x, tokens[:, None, :, None] if axis == -2 else tokens[:, None, None], axis)


def take_positions(
    positions: Int[Array, "batch length *axes"], tokens: Int[Array, "batch few"]
) -> Int[Array, "batch few *axes"]:
    """Select the positions of some tokens, per batch element."""
    if positions.ndim == 2:
        return take_along(positions, tokens, 1)
    return take_along(positions, tokens[..., None], 1)
