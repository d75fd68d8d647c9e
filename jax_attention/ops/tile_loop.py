r"""Blockwise attention with an online softmax: the scores of a tile are not stored, so memory is linear in the length.

$$ m' = \max(m, \max_j s_j), \qquad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \qquad
   a' = e^{m - m'} a + \sum_j e^{s_j - m'} v_j, \qquad o = a / \ell $$

The softmax of a row is accumulated over its tiles: m is the largest score so far, ℓ is the sum of exponentials, and a
is the sum of values weighted by these exponentials, both relative to m (Milakov & Gimelshein 2018; Rabe & Staats 2021).
The backward pass recomputes the scores (Dao et al. 2022). It needs only m and ℓ of each row, and the output before it
is rounded to 16 bits; m and ℓ are saved separately, because the logsumexp m + log ℓ would lose digits:

$$ p_j = e^{s_j - m} / \ell, \qquad \partial v_j = p_j\, \partial o, \qquad
   \partial s_j = p_j \left(\partial o^\top v_j - \partial o^\top o\right) $$
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jax_attention.arrays import einsum
from jax_attention.ops.softmax import at_least_float32
from jax_attention.ops.tiles import Fixed, Learned, Plan, Tile, Tiling


def attend_tiles(
    plan: Plan, learned: Learned, fixed: Fixed
) -> tuple[Float[Array, "batch kv_heads group query value_dim"], Float[Array, "batch kv_heads group query"]]:
    """Output and logsumexp of each query; the logsumexp of fully masked rows is -inf."""
    output, log_sum, _, _ = _attend_tiles(plan, learned, fixed)
    return output.astype(learned.query.dtype), log_sum


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_tiles(plan: Plan, learned: Learned, fixed: Fixed) -> tuple[Array, Array, Array, Array]:
    """Output and logsumexp of each query, and m and 1 / ℓ of each row for the gradient."""
    query, key, value, bias, sinks, arrays = learned
    batch, kv_heads, group, query_len, _ = query.shape
    wide = at_least_float32(query).dtype

    def pair(number: Array) -> tuple[Array, Array, Array]:
        n, g = number // kv_heads, number % kv_heads
        queries, keys, values = query[n, g], key[n, g], value[n, g]  # length dim each, queries by group

        def row(i: Array) -> tuple[Array, Array, Array]:
            asked = plan.rule.scale * _cut(queries, i, plan.rows).astype(wide)  # group row head_dim

            def tile(
                is_partial: bool, j: Array, gathered: tuple[Array, Array, Array]
            ) -> tuple[Array, Array, Array]:
                top, total, read = gathered
                products = einsum("rqd,kd->rqk", asked, _cut(keys, j, plan.columns).astype(wide))
                at = Tile(plan, fixed, n, g, group, i, j, is_partial)
                scores = at.hidden(
                    plan.rule.score(
                        products, None if bias is None else at.of(bias), arrays, fixed.known, at.place
                    )
                )  # group row column
                new_top = jnp.maximum(top, scores.max(-1))
                level = jnp.where(new_top == -jnp.inf, 0.0, new_top)  # -inf - -inf is NaN
                shares = jnp.exp(scores - level[..., None])
                fade = jnp.exp(top - level)
                values_here = _cut(values, j, plan.columns).astype(wide)  # column value_dim
                total = fade * total + shares.sum(-1)
                read = fade[..., None] * read + einsum("rqk,kd->rqd", at.kept(shares), values_here)
                return new_top, total, read

            start = (
                jnp.full((group, plan.rows), -jnp.inf, wide),
                jnp.zeros((group, plan.rows), wide),
                jnp.zeros((group, plan.rows, value.shape[-1]), wide),
            )
            top, total, read = _walk(fixed.tiling, n, g, i, tile, start)
            if sinks is not None:
                sink = sinks[g, :, None].astype(wide)
                level = jnp.maximum(top, sink)
                level = jnp.where(level == -jnp.inf, 0.0, level)  # -inf - -inf is NaN
                fade = jnp.exp(top - level)
                top, total, read = level, fade * total + jnp.exp(sink - level), fade[..., None] * read
            seen = total > 0
            top, share = jnp.where(seen, top, 0.0), jnp.where(seen, 1.0 / jnp.where(seen, total, 1.0), 0.0)
            return share[..., None] * read, top, share

        return lax.map(row, jnp.arange(query_len // plan.rows))

    found = lax.map(pair, jnp.arange(batch * kv_heads), batch_size=_at_once(fixed))  # pair tile group row ...
    output, top, share = (jnp.swapaxes(x, 1, 2) for x in found)
    output = output.reshape(*query.shape[:-1], -1)
    top, share = top.reshape(query.shape[:-1]), share.reshape(query.shape[:-1])
    log_sum = jnp.where(share > 0, top - jnp.log(jnp.where(share > 0, share, 1.0)), -jnp.inf)
    return output, log_sum, top, share


def _forward(plan: Plan, learned: Learned, fixed: Fixed) -> tuple[Any, Any]:
    output, log_sum, top, share = _attend_tiles(plan, learned, fixed)
    return (output, log_sum, top, share), (learned, fixed, (output, top, share))


def _backward(plan: Plan, saved: Any, cotangents: Any) -> tuple[Learned, None]:
    d_output, d_log_sum, _, _ = cotangents  # the other results are not public
    return _gradient(plan, *saved, (d_output, d_log_sum)), None


_attend_tiles.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradient(
    plan: Plan,
    learned: Learned,
    fixed: Fixed,
    results: tuple[Array, Array, Array],
    cotangents: tuple[Array, Array],
) -> Learned:
    """Gradient of `attend_tiles`, tile by tile; `results` holds its output, m and 1 / ℓ."""
    output, top, share = results
    query, key, value, bias, sinks, arrays = learned
    batch, kv_heads, group, query_len, _ = query.shape
    wide = top.dtype
    d_output, d_log_sum = cotangents
    # Subtracted from the gradient of every score, because the weights of a row sum to one.
    d_log_sum = jnp.where(share > 0, d_log_sum, 0.0)  # fully masked rows have no gradient
    mean = (d_output * output).sum(-1) - d_log_sum
    is_one_tile = key.shape[2] == plan.columns

    def pair(shared: Any, number: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        n, g = number // kv_heads, number % kv_heads
        queries, keys, values, d_reads = query[n, g], key[n, g], value[n, g], d_output[n, g]
        statistics = [x[n, g][..., None] for x in (top, share, mean, d_log_sum)]  # group query 1

        def row(i: Array, carry: Any) -> Any:
            asked = plan.rule.scale * _cut(queries, i, plan.rows).astype(wide)
            d_read = _cut(d_reads, i, plan.rows)
            level, per, off, further = (_cut(x, i, plan.rows) for x in statistics)
            # Features first, as the products along the rows of a tile need them; once per row of tiles.
            asked_first, d_read_first = (jnp.moveaxis(x, -1, 0) for x in (asked, d_read))

            def tile(is_partial: bool, j: Array, carry: Any) -> Any:
                d_asked, d_keys, d_values, d_bias, d_arrays = carry
                keys_here = _cut(keys, j, plan.columns).astype(wide)
                values_here = _cut(values, j, plan.columns).astype(wide)
                at = Tile(plan, fixed, n, g, group, i, j, is_partial)
                products = einsum("rqd,kd->rqk", asked, keys_here)
                scores, pull = jax.vjp(
                    partial(plan.rule.score, known=fixed.known, place=at.place),
                    products,
                    None if bias is None else at.of(bias),
                    arrays,
                )
                shares = jnp.exp(at.hidden(scores) - level) * per
                d_shares = at.kept(einsum("rqd,kd->rqk", d_read, values_here))
                # With one tile per row, the subtracted mean rounds as in the reference implementation.
                less = (shares * d_shares).sum(-1, keepdims=True) - further if is_one_tile else off
                d_products, d_bias_here, d_arrays_here = pull(shares * (d_shares - less))
                d_asked = d_asked + einsum("rqk,kd->rqd", d_products, keys_here)
                # Transposed, which saves XLA a copy of the whole tile.
                d_keys = _add(d_keys, einsum("drq,rqk->dk", asked_first, d_products), j)
                d_values = _add(d_values, einsum("drq,rqk->dk", d_read_first, at.kept(shares)), j)
                d_bias = None if bias is None else at.add(d_bias, d_bias_here)
                return d_asked, d_keys, d_values, d_bias, jax.tree.map(jnp.add, d_arrays, d_arrays_here)

            d_query, *others = carry
            d_asked, *others = _walk(fixed.tiling, n, g, i, tile, (jnp.zeros_like(asked), *others))
            d_asked = plan.rule.scale * d_asked
            return (lax.dynamic_update_slice_in_dim(d_query, d_asked, i * plan.rows, axis=1), *others)

        zeros = (jnp.zeros(shape, wide) for shape in (query.shape[2:], keys.shape[::-1], values.shape[::-1]))
        *own, d_bias, d_arrays = lax.fori_loop(0, query_len // plan.rows, row, (*zeros, *shared))
        return (d_bias, d_arrays), tuple(own)

    numbers = jnp.arange(batch * kv_heads)
    start = None if bias is None else jnp.zeros(bias.shape, wide), jax.tree.map(jnp.zeros_like, arrays)
    if jax.tree.leaves(start):
        (d_bias, d_arrays), own = lax.scan(pair, start, numbers)
    else:  # no sums over the pairs
        d_bias, d_arrays = start
        own = lax.map(lambda number: pair(start, number)[1], numbers, batch_size=_at_once(fixed))
    d_query, d_key, d_value = own[0], own[1].mT, own[2].mT  # one entry per pair of batch element and head
    d_query, d_key, d_value = (
        d.reshape(x.shape).astype(x.dtype)
        for d, x in zip((d_query, d_key, d_value), (query, key, value), strict=True)
    )
    d_bias = None if bias is None or d_bias is None else d_bias.astype(bias.dtype)
    d_sinks = None
    if sinks is not None:
        shares = jnp.exp(sinks[..., None].astype(wide) - top) * share  # batch kv_heads group query
        d_sinks = -(shares * mean).sum((0, 3)).astype(sinks.dtype)
    return Learned(d_query, d_key, d_value, d_bias, d_sinks, d_arrays)


def _gradient_forward(plan: Plan, *saved: Any) -> tuple[Learned, Any]:
    return _gradient(plan, *saved), saved


def _gradient_backward(plan: Plan, saved: Any, d_gradient: Learned) -> tuple[Learned, None, None, Any]:
    """Derivatives of the gradient, of any order, computed from all scores of a head at once."""
    learned, fixed, _, cotangents = saved

    def gradient(learned: Learned, cotangents: tuple[Array, Array]) -> Learned:
        return jax.vjp(lambda learned: attend_whole(plan, learned, fixed), learned)[1](cotangents)[0]

    d_learned, d_cotangents = jax.vjp(gradient, learned, cotangents)[1](d_gradient)
    return d_learned, None, None, d_cotangents


_gradient.defvjp(_gradient_forward, _gradient_backward)


def attend_whole(
    plan: Plan, learned: Learned, fixed: Fixed
) -> tuple[Float[Array, "batch kv_heads group query value_dim"], Float[Array, "batch kv_heads group query"]]:
    """`attend_tiles` with a single tile for the whole plane, differentiable any number of times."""
    query, key, value, bias, sinks, arrays = learned
    batch, kv_heads, group, query_len, _ = query.shape
    wide = at_least_float32(query).dtype
    whole = plan._replace(rows=query_len, columns=key.shape[2])

    def pair(number: Array) -> tuple[Array, Array]:
        n, g = number // kv_heads, number % kv_heads
        at = Tile(whole, fixed, n, g, group, 0, 0, True)
        asked = plan.rule.scale * query[n, g].astype(wide)  # group query head_dim
        products = einsum("rqd,kd->rqk", asked, key[n, g].astype(wide))
        scores = at.hidden(
            plan.rule.score(products, None if bias is None else at.of(bias), arrays, fixed.known, at.place)
        )  # group query key
        seen = scores > -jnp.inf
        scores = jnp.where(seen, scores, jnp.finfo(wide).min)
        top = scores.max(-1)
        sink = None if sinks is None else sinks[g, :, None].astype(wide)
        top = lax.stop_gradient(top if sink is None else jnp.maximum(top, sink))
        shares = jnp.where(seen, jnp.exp(scores - top[..., None]), 0.0)
        total = shares.sum(-1) if sink is None else shares.sum(-1) + jnp.exp(sink - top)
        alive = total > 0
        total = jnp.where(alive, total, 1.0)
        read = einsum("rqk,kd->rqd", at.kept(shares), value[n, g].astype(wide)) / total[..., None]
        return read, jnp.where(alive, top + jnp.log(total), -jnp.inf)

    read, log_sum = lax.map(pair, jnp.arange(batch * kv_heads))
    return read.reshape(*query.shape[:-1], -1), log_sum.reshape(query.shape[:-1])


PAIRS = 4  # pairs of batch element and key/value head; a single pair is too little work for XLA's threads


def _at_once(fixed: Fixed) -> int:
    """Number of pairs that are computed together: several only if they visit the same tiles."""
    batch, kv_heads, _ = fixed.tiling.full.shape
    return PAIRS if batch == kv_heads == 1 else 1


def _walk(tiling: Tiling, n: Array, g: Array, i: Array, tile: Callable[..., Any], carry: Any) -> Any:
    """Visit the full tiles of row i, then the partial ones."""
    order, full, live = (x[n if x.shape[0] > 1 else 0, g if x.shape[1] > 1 else 0, i] for x in tiling)
    carry = lax.fori_loop(0, full, lambda k, carry: tile(False, order[k], carry), carry)
    return lax.fori_loop(full, live, lambda k, carry: tile(True, order[k], carry), carry)


def _cut(x: Float[Array, "... length dim"], number: Array, size: int) -> Float[Array, "... size dim"]:
    return lax.dynamic_slice_in_dim(x, number * size, size, axis=-2)


def _add(
    x: Float[Array, "dim length"], part: Float[Array, "dim size"], number: Array
) -> Float[Array, "dim length"]:
    start, size = number * part.shape[-1], part.shape[-1]
    before = lax.dynamic_slice_in_dim(x, start, size, axis=-1)
    return lax.dynamic_update_slice_in_dim(x, before + part, start, axis=-1)
