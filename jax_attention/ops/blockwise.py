"""Blockwise `dot_product_attention`: memory linear in the length, and no work for fully masked tiles."""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float

from jax_attention.arrays import REALS
from jax_attention.ops.call import Call, Implementation
from jax_attention.ops.definition import call_masks, reference_attention
from jax_attention.ops.masked_values import ignoring_dead_keys
from jax_attention.ops.rules import DotProductRule, Visibility
from jax_attention.ops.softmax import share_of_keys
from jax_attention.ops.tile_loop import attend_tiles
from jax_attention.ops.tiles import (
    Fixed,
    Learned,
    Plan,
    pad_axis,
    tile_size,
    tiles_by_mask,
    tiles_by_place,
    tiling,
)

ROWS = 512  # rows of a tile, counting all query heads of a key/value head
COLUMNS = 512


def blockwise_attention(call: Call) -> Any:
    """Compute `dot_product_attention` tile by tile, without the whole score matrix."""
    if 0 in (*call.query.shape[:-3], call.query.shape[-2], call.key.shape[-2]):  # no tiles
        return reference_attention(call)
    output, log_sum = blockwise_with_log_sum(call)
    return (output, log_sum) if call.return_logsumexp else output


def blockwise_with_log_sum(
    call: Call,
) -> tuple[Float[Array, "*batch heads query value_dim"], Float[Array, "*batch heads query"]]:
    """Blockwise attention and the logsumexp of each query's scores, -inf for fully masked rows.

    Args:
        call: checked call with lengths above 0.
    """
    query, key, value = call.query, call.key, call.value
    kv_heads, key_len = key.shape[-3:-1]
    *batch, heads, query_len, _ = query.shape
    group = heads // kv_heads
    rows = tile_size(query_len, max(1, ROWS // group))
    columns = tile_size(key_len, COLUMNS)
    bias, mask = call_masks(call._replace(visibility=Visibility()))

    def whole(x: Array | None) -> Array | None:
        """Reshape a mask or bias to `(batch|1, kv_heads|1, group|1, query|1, key|1)`, padded to whole tiles."""
        if x is None:
            return None
        x = _flat(x if x.ndim > 2 else x[None], batch)
        x = x[:, :, None] if x.shape[1] == 1 else rearrange(x, "n (g r) ... -> n g r ...", r=group)
        return pad_axis(pad_axis(x, 3, rows), 4, columns)

    mask, bias, keep = whole(mask), whole(bias), whole(call.dropout_keep)
    live, full = tiles_by_place(
        (query_len, key_len),
        (rows, columns),
        visibility=call.visibility,
    )
    live, full = live[:, None], full[:, None]
    if mask is not None:
        some, all_of_them = tiles_by_mask(mask, (rows, columns))
        live, full = live & some.any(2), full & all_of_them.all(2)

    plan = Plan(
        DotProductRule(call.scale, call.softcap),
        key_len,
        rows,
        columns,
        call.dropout_rate,
    )
    learned = Learned(
        pad_axis(rearrange(_flat(query, batch), "n (g r) q d -> n g r q d", r=group), 3, rows),
        pad_axis(_flat(key, batch), 2, columns),
        pad_axis(_flat(value, batch), 2, columns),
        bias,
        None
        if call.sinks is None or call.return_logsumexp
        else rearrange(call.sinks, "(g r) -> g r", r=group),
        (),
    )
    output, log_sum = attend_tiles(plan, learned, Fixed(tiling(live, full), mask, keep, call.visibility))
    output = output[..., :query_len, :].reshape(*batch, heads, query_len, value.shape[-1])
    log_sum = log_sum[..., :query_len].reshape(*batch, heads, query_len)
    if call.return_logsumexp and call.sinks is not None:  # subtract the sinks' share of the total weight
        output = (output * share_of_keys(log_sum, call.sinks)[..., None]).astype(output.dtype)
    return output, log_sum


def _flat(x: Array, batch: list[int]) -> Array:
    """Flatten all batch axes into one; of size 1 if the array is the same for all batch elements."""
    own = x.shape[:-3]
    if all(size == 1 for size in own):
        return x.reshape(1, *x.shape[-3:]) if batch else x[None]
    return jnp.broadcast_to(x, (*batch, *x.shape[-3:])).reshape(-1, *x.shape[-3:])


def blockwise_refusal(call: Call) -> str | None:
    """Reason why tiles cannot compute a call, or None: they have no gradients of the scale and the softcap."""
    for name, x in (("scale", call.scale), ("softcap", call.softcap)):
        if x is not None and not isinstance(x, REALS):
            return f"blockwise attention needs a {name} that is a number, got an array"
    return None


BLOCKWISE = Implementation("blockwise", blockwise_refusal, ignoring_dead_keys(blockwise_attention))
