"""Longformer attention in linear time: neighbours in blocks, and the global tokens, whose number varies, in tiles.

The global tokens are brought to the front, so that they fill few tiles; those without any are never visited. While
code is compiled PyTorch cannot look at them, and visits all tiles.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from torch_attention.arrays import stable_order
from torch_attention.checks import align
from torch_attention.ops import at_least_float32, dot_product_scores, masked_softmax, weighted_values
from torch_attention.ops.blockwise import blockwise_with_log_sum
from torch_attention.ops.call import checked_call
from torch_attention.ops.hidden import without_dead_keys
from torch_attention.patterns.blocks import Blocks

FEW = 64  # global tokens in a tile


def is_near(
    query: Int[Tensor, "..."], key: Int[Tensor, "..."], *, one_sided_window: int
) -> Bool[Tensor, "..."]:
    """Whether a key is at most so far from a query, by their numbers."""
    return (key <= query + one_sided_window) & (key >= query - one_sided_window)


def local_and_global_heads(
    blocks: Blocks,
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    mask: Bool[Tensor, "..."] | None,
    global_tokens: Bool[Tensor, "batch length"],
    *,
    one_sided_window: int,
    scale: float | None,
) -> Float[Tensor, "batch heads length head_dim"]:
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
    found = log_sum > -torch.inf  # batch heads length

    sees = partial(is_near, one_sided_window=one_sided_window)
    near = blocks.visible(
        sees, ~is_global if allowed is None else ~is_global & allowed, shape, device=query.device
    )
    scores, near = dot_product_scores(
        blocks.queries(query), blocks.keys(key), mask=near, scale=scale
    )  # blocks heads size span
    assert near is not None  # for keys that are far are hidden
    one_more = blocks.queries(torch.where(found, log_sum, 0.0)[..., None])  # blocks heads size 1
    visible = [torch.broadcast_to(near, scores.shape), blocks.queries(found[..., None])]
    weights = masked_softmax(
        torch.concatenate([scores, one_more], dim=-1), torch.concatenate(visible, dim=-1)
    )  # blocks heads size span+1
    heads = weighted_values(weights[..., :-1], at_least_float32(blocks.keys(value)))
    return blocks.join(heads + weights[..., -1:] * blocks.queries(read)).to(value.dtype)


def heads_of_global_tokens(
    query: Float[Tensor, "batch heads length head_dim"],
    key: Float[Tensor, "batch heads length head_dim"],
    value: Float[Tensor, "batch heads length head_dim"],
    mask: Bool[Tensor, "..."] | None,
    global_tokens: Bool[Tensor, "batch length"],
    *,
    scale: float | None,
) -> Float[Tensor, "batch heads length head_dim"]:
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
    return _reorder(read, torch.argsort(order, dim=-1), -2)


def _reorder(
    x: Shaped[Tensor, "..."], order: Int[Tensor, "batch length"], axis: int
) -> Shaped[Tensor, "..."]:
    """The elements along axis -2 or -1 in another order; an axis of size 1 is for all, and stays."""
    if x.shape[axis] == 1:
        return x
    if axis == -2:
        return torch.take_along_dim(x, order[:, None, :, None], dim=-2)
    return torch.take_along_dim(x, order[:, None, None], dim=-1)
