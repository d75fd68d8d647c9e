"""Longformer attention in linear time: neighbours in blocks, and the global tokens, whose number varies, in tiles.

The global tokens are brought to the front, so that they fill few tiles; those without any are never visited. While
code is compiled PyTorch cannot look at them, and visits all tiles.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arrays import stable_order
from jax_attention.checks import align
from jax_attention.ops import at_least_float32, dot_product_scores, masked_softmax, weighted_values
from jax_attention.ops.blockwise import blockwise_with_log_sum
from jax_attention.ops.call import checked_call
from jax_attention.ops.hidden import without_dead_keys
from jax_attention.patterns.blocks import Blocks

FEW = 64  # global tokens in a tile


def is_near(query: Int[Array, "..."], key: Int[Array, "..."], *, one_sided_window: int) -> Bool[Array, "..."]:
    """Whether a key is at most so far from a query, by their numbers."""
    return (key <= query + one_sided_window) & (key >= query - one_sided_window)


def local_and_global_heads(
    blocks: Blocks,
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    mask: Bool[Array, "..."] | None,
    global_tokens: Bool[Array, "batch length"],
    *,
    one_sided_window: int,
    scale: float | None,
) -> Float[Array, "batch heads length head_dim"]:
    """What queries read that are not global: from their neighbours in blocks, from the global keys in tiles.

    The global keys together are like one more key, whose score is the logarithm of the sum of their exponentials.
    """
    shape = (*query.shape[:3], query.shape[2])
    allowed = None if mask is None else align("mask", mask, shape)
    is_global = global_tokens[:, None, None]  # batch 1 1 length
    order = stable_order(~global_tokens)  # global tokens first
    seen = is_global if allowed is None else is_global & allowed
    call = checked_call(
        at_least_float32(query),
        _reorder(at_least_float32(key), order, -2),
        _reorder(at_least_float32(value), order, -2),
        mask=_reorder(seen, order, -1),
        scale=scale,
    )
    read, log_sum = blockwise_with_log_sum(without_dead_keys(call), columns=FEW)
    found = log_sum > -jnp.inf  # batch heads length

    sees = partial(is_near, one_sided_window=one_sided_window)
    near = blocks.visible(sees, ~is_global if allowed is None else ~is_global & allowed, shape)
    scores, near = dot_product_scores(
        blocks.queries(query), blocks.keys(key), mask=near, scale=scale
    )  # blocks heads size span
    assert near is not None  # for keys that are far are hidden
    one_more = blocks.queries(jnp.where(found, log_sum, 0.0)[..., None])  # blocks heads size 1
    visible = [jnp.broadcast_to(near, scores.shape), blocks.queries(found[..., None])]
    weights = masked_softmax(
        jnp.concatenate([scores, one_more], axis=-1), jnp.concatenate(visible, axis=-1)
    )  # blocks heads size span+1
    heads = weighted_values(weights[..., :-1], at_least_float32(blocks.keys(value)))
    return blocks.join(heads + weights[..., -1:] * blocks.queries(read)).astype(value.dtype)


def heads_of_global_tokens(
    query: Float[Array, "batch heads length head_dim"],
    key: Float[Array, "batch heads length head_dim"],
    value: Float[Array, "batch heads length head_dim"],
    mask: Bool[Array, "..."] | None,
    global_tokens: Bool[Array, "batch length"],
    *,
    scale: float | None,
) -> Float[Array, "batch heads length head_dim"]:
    """What global queries read, in tiles; other rows are not to be used."""
    order = stable_order(~global_tokens)
    allowed = None if mask is None else align("mask", mask, (*query.shape[:3], query.shape[2]))
    call = checked_call(
        _reorder(query, order, -2),
        key,
        value,
        mask=None if allowed is None else _reorder(allowed, order, -2),
        scale=scale,
    )
    asked = _reorder(global_tokens[:, None, :, None], order, -2)
    read, _ = blockwise_with_log_sum(without_dead_keys(call), asked, rows=FEW)
    return _reorder(read, jnp.argsort(order, axis=-1), -2)


def _reorder(x: Shaped[Array, "..."], order: Int[Array, "batch length"], axis: int) -> Shaped[Array, "..."]:
    """The elements along axis -2 or -1 in another order; an axis of size 1 is for all, and stays."""
    if x.shape[axis] == 1:
        return x
    if axis == -2:
        return jnp.take_along_axis(x, order[:, None, :, None], axis=-2)
    return jnp.take_along_axis(x, order[:, None, None], axis=-1)
