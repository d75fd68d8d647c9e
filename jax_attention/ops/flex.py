r"""Flex attention: scores and masks defined by Python functions (Dong et al. 2024).

$$ o_i = \sum_{j \in V(i)} \mathrm{softmax}_j\big(\mathrm{score}(s\, q_i^\top k_j,\, b, h, i, j)\big)\, v_j $$

A score function takes the score of one query-key pair and the indices of batch element, head, query and key. The same
function works in both mirrors, forward and backward, on every platform. Gradients flow to the floating-point arrays
that it closes over.

    >>> slopes = jnp.asarray([0.5, 0.25, 0.125])
    >>> flex_attention(query, key, value, lambda score, b, h, i, j: score - slopes[h] * (i - j))

A mask is evaluated once for blocks of queries and keys; fully masked blocks are skipped:

    >>> document = jnp.asarray([0, 0, 0, 1, 1])
    >>> same = lambda b, h, i, j: document[i] == document[j]
    >>> mask = create_block_mask(and_masks(same, lambda b, h, i, j: j <= i), None, None, 5, 5)
    >>> flex_attention(query, key, value, block_mask=mask)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_attention
from jax_attention.ops.block_mask import BlockMask, over_plane
from jax_attention.ops.block_mask import and_masks as and_masks
from jax_attention.ops.block_mask import create_block_mask as create_block_mask
from jax_attention.ops.block_mask import or_masks as or_masks
from jax_attention.ops.blockwise import COLUMNS, ROWS
from jax_attention.ops.rules import Place, Visibility
from jax_attention.ops.softmax import at_least_float32
from jax_attention.ops.tile_loop import attend_tiles
from jax_attention.ops.tiles import Fixed, Learned, Plan, tile_size, tiles_by_place, tiling

ScoreMod = Callable[[Array, Array, Array, Array, Array], Array]


@checked
def flex_attention(
    query: Float[Array, "batch heads query head_dim"],
    key: Float[Array, "batch kv_heads key head_dim"],
    value: Float[Array, "batch kv_heads key value_dim"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
) -> Any:
    """Attention with scores and mask defined by functions; memory is linear in the lengths.

    Args:
        query, key, value: as in `dot_product_attention`.
        score_mod: function of (score, b, h, i, j) that returns the modified score; None for no change.
        block_mask: mask of the visible keys, made by `create_block_mask`; None for no mask.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        enable_gqa: whether queries may have more heads than keys and values.
        return_lse: whether to return the logsumexp of each query's scores as well.

    Returns:
        Output with one vector per query, exactly zero for fully masked rows. With `return_lse`, a pair of the output
        and the logsumexp `(batch, heads, query)`, -inf for fully masked rows.

    Raises:
        ValueError: shapes do not match.
    """
    check_attention(query, key, value)
    batch, heads, query_len, _ = query.shape
    kv_heads, key_len = key.shape[1:3]
    check_flex(query, key, block_mask, enable_gqa)
    if 0 in (batch, query_len, key_len):  # no query-key pairs
        output = jnp.zeros((batch, heads, query_len, value.shape[-1]), query.dtype)
        return (output, at_least_float32(output).sum(-1) - jnp.inf) if return_lse else output
    group = heads // kv_heads
    if block_mask is None:
        rows, columns = tile_size(query_len, max(1, ROWS // group)), tile_size(key_len, COLUMNS)
        live, full = tiles_by_place((query_len, key_len), (rows, columns), visibility=Visibility())
        live, full = live[:, None], full[:, None]
    else:
        (rows, columns), live, full = _tiles_of_blocks(block_mask, group)
    rule, arrays, known = _rule(
        score_mod,
        block_mask,
        query.shape[-1] ** -0.5 if scale is None else scale,
        at_least_float32(query).dtype,
    )
    learned = Learned(
        _whole(rearrange(query, "n (g r) q d -> n g r q d", r=group), 3, rows),
        _whole(key, 2, columns),
        _whole(value, 2, columns),
        None,
        None,
        arrays,
    )
    plan = Plan(rule, key_len, rows, columns, 0.0)
    output, log_sum = attend_tiles(plan, learned, Fixed(tiling(live, full), None, None, known))
    output = output[..., :query_len, :].reshape(batch, heads, query_len, -1)
    if not return_lse:
        return output
    return output, log_sum[..., :query_len].reshape(batch, heads, query_len)


def check_flex(query: Array, key: Array, block_mask: BlockMask | None, enable_gqa: bool) -> None:
    """Raise ValueError unless the heads and the block mask match queries and keys."""
    (batch, heads, query_len, _), (_, kv_heads, key_len, _) = query.shape, key.shape
    if heads != kv_heads and not enable_gqa:
        raise ValueError(
            f"query and key must have the same heads without enable_gqa, got {heads} and {kv_heads}"
        )
    if block_mask is None:
        return
    if block_mask.lengths != (query_len, key_len):
        raise ValueError(f"block_mask must be of lengths {(query_len, key_len)}, got {block_mask.lengths}")
    sizes = tuple(block_mask.live.shape[:2])
    if sizes[0] not in (1, batch) or sizes[1] not in (1, heads):
        raise ValueError(f"block_mask must be of (batch|1, heads|1) = {(batch, heads)}, got {sizes}")


@dataclass(frozen=True, eq=False)
class _FlexRule:
    """Score and mask rule of `flex_attention`; the functions take their closed-over arrays as arguments."""

    scale: float
    score_mod: Callable[..., Array] | None
    mask_mod: Callable[..., Array] | None

    def score(
        self,
        products: Float[Array, "group row column"],
        bias: Float[Array, "..."] | None,
        arrays: tuple[Array, ...],
        known: Any,
        place: Place,
    ) -> Float[Array, "group row column"]:
        """Apply `score_mod` to every scaled product."""
        score_mod = self.score_mod
        if score_mod is None:
            return products
        changed = jax.vmap(
            jax.vmap(
                jax.vmap(lambda *pair: score_mod(arrays, known[0], *pair), (0, None, None, None, 0)),
                (0, None, None, 0, None),
            ),
            (0, None, 0, None, None),
        )(products, place.batch, place.heads[:, 0, 0], place.queries[:, 0], place.keys)
        return changed.astype(products.dtype)

    def visible(self, known: Any, place: Place) -> Bool[Array, "..."]:
        """Apply `mask_mod` to every query-key pair."""
        mask_mod = self.mask_mod
        if mask_mod is None:
            return place.keys >= 0
        seen = over_plane(lambda *pair: mask_mod(*known[1], *pair))
        return seen(place.batch[None], place.heads[:, 0, 0], place.queries[:, 0], place.keys)[0]


def _whole(x: Array, axis: int, size: int) -> Array:
    """Pad an axis with zeros to a multiple of `size`, even an axis of size 1."""
    widths = [(0, -x.shape[axis] % size) if i == axis else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, widths)


def _rule(
    score_mod: ScoreMod | None, block_mask: BlockMask | None, scale: float, dtype: Any
) -> tuple[_FlexRule, tuple[Array, ...], Any]:
    """Rule, floating-point arrays that `score_mod` closes over, and all other arrays that the functions close over."""
    number, product = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), dtype)
    nothing: tuple[None, tuple[Array, ...], tuple[Array, ...]] = (None, (), ())
    score, floats, others = nothing if score_mod is None else _opened(score_mod, product, *(number,) * 4)
    mask, *seen = nothing if block_mask is None else _opened(block_mask.mask_mod, *(number,) * 4)
    return _FlexRule(scale, score, mask), floats, (others, seen)


def _opened(
    function: Callable[..., Array], *example: jax.ShapeDtypeStruct
) -> tuple[Callable[..., Array], tuple[Array, ...], tuple[Array, ...]]:
    """Turn the arrays that a function closes over into arguments, and return them as floats and others."""
    closed = jax.make_jaxpr(function)(*example)
    held = [jnp.asarray(x) for x in closed.consts]
    is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in held]
    floats = tuple(x for x, chosen in zip(held, is_float, strict=True) if chosen)
    others = tuple(x for x, chosen in zip(held, is_float, strict=True) if not chosen)

    def opened(floats: tuple[Array, ...], others: tuple[Array, ...], *pair: Array) -> Array:
        sources = iter(others), iter(floats)
        again = [next(sources[chosen]) for chosen in is_float]
        (result,) = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, again))(*pair)
        return result

    return opened, floats, others


def _tiles_of_blocks(
    mask: BlockMask, group: int
) -> tuple[
    tuple[int, int], Bool[Array, "batch kv_heads rows columns"], Bool[Array, "batch kv_heads rows columns"]
]:
    """Group blocks into tiles: live if any block is live, full if all are full; the heads of a group share tiles."""
    heads = mask.live.shape[1]
    merged = (1, 1) if heads == 1 else (heads // group, group)
    sizes, live, full = [], mask.live, mask.full
    for axis, most in ((2, max(1, ROWS // group)), (3, COLUMNS)):
        block, count = mask.block_size[axis - 2], live.shape[axis]
        blocks = tile_size(count, max(1, most // block))
        widths = [(0, -count % blocks if each == axis else 0) for each in range(4)]
        live = jnp.pad(live, widths)
        full = jnp.pad(full, widths)  # tiles beyond the last key must be masked
        live, full = (x.reshape(*x.shape[:axis], -1, blocks, *x.shape[axis + 1 :]) for x in (live, full))
        live, full = live.any(axis + 1), full.all(axis + 1)
        sizes.append(block * blocks)
    live, full = (x.reshape(x.shape[0], *merged, *x.shape[2:]) for x in (live, full))
    # The last block may contain padding keys.
    full = full & (jnp.arange(1, full.shape[-1] + 1) * sizes[1] <= mask.lengths[1])
    return (sizes[0], sizes[1]), live.any(2), full.all(2)
