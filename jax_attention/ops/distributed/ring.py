r"""Ring attention: keys and values circulate among the devices of the queries (Liu et al. 2023, arXiv 2310.01889).

$$ m' = \max(m, \max_j s_j), \qquad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \qquad
   a' = e^{m - m'} a + \sum_j e^{s_j - m'} v_j, \qquad o = a / \ell $$

Each of n devices holds 1/n of the sequence. In each of n steps, a device attends to the keys and values that it
currently holds, and passes them to its neighbour. The softmax is accumulated as in `tile_loop`, over the keys of one
device at a time. The backward pass sends the keys and values around the ring again, together with their gradients,
which are complete after one round. No device ever holds more keys than its own and those in transit.

| symbol | here                                                            |
|--------|-----------------------------------------------------------------|
| m      | `top`, the largest score so far of each query                   |
| ℓ      | `total`, the sum of exponentials relative to m                  |
| a      | `read`, the sum of values, weighted by the same exponentials    |
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from jax_attention.arrays import REALS
from jax_attention.ops.call import Call, Implementation
from jax_attention.ops.definition import dot_product_scores, weighted_values
from jax_attention.ops.distributed.collectives import device_count, own_number, part_of, pass_on
from jax_attention.ops.distributed.shards import Shards, over_shards, shards_of
from jax_attention.ops.softmax import at_least_float32


class RingLearned(NamedTuple):
    """Arrays with gradients, with this device's queries, keys and values; as in `Call`."""

    query: Float[Array, "*batch heads query head_dim"]
    key: Float[Array, "*batch kv_heads key head_dim"]
    value: Float[Array, "*batch kv_heads key value_dim"]
    bias: Float[Array, "..."] | None
    sinks: Float[Array, "heads"] | None


class RingFixed(NamedTuple):
    """Arguments without gradients, for this device's queries and the keys of all devices."""

    mask: Bool[Array, "..."] | None
    keep: Bool[Array, "..."] | None
    query_offset: int | Int[Array, ""]


class RingPlan(NamedTuple):
    """Static arguments of ring attention.

    Attributes:
        shards: sharding of the call.
        window: number of visible keys before and after the query's own; None for no limit.
        scale, softcap, dropout_rate: as in `Call`.
    """

    shards: Shards
    window: tuple[int | None, int | None]
    scale: float
    softcap: float | None
    dropout_rate: float


def ring_refusal(call: Call) -> str | None:
    """Reason why ring attention does not support a call; None if it does."""
    if call.return_logsumexp:
        return "ring attention gives no logsumexp"
    if not all(x is None or isinstance(x, REALS) for x in (call.scale, call.softcap)):
        return "ring attention needs a scale and a softcap that are numbers, got an array"
    shards = shards_of(call)
    if shards is not None and shards.sequence is not None:
        return None
    lengths = call.query.shape[-2], call.key.shape[-2]
    return (
        "ring attention needs both lengths sharded evenly over several devices, "
        f"got lengths {lengths[0]} and {lengths[1]}"
    )


def ring_attention(call: Call) -> Float[Array, "*batch heads query value_dim"]:
    """Compute `dot_product_attention` over a ring of devices; every key visits every device."""
    shards = shards_of(call)
    assert shards is not None
    return over_shards(call, shards, partial(ring_part, shards=shards))


def ring_part(call: Call, *, shards: Shards) -> Float[Array, "*batch heads query value_dim"]:
    """Output for the queries of one device, from a call with its own queries, keys and values."""
    seen = call.visibility
    plan = RingPlan(shards, (seen.before, seen.after), call.scale, call.softcap, call.dropout_rate)
    learned = RingLearned(call.query, call.key, call.value, call.bias, call.sinks)
    output, *_ = _ring(plan, learned, RingFixed(call.mask, call.dropout_keep, seen.query_offset))
    return output.astype(call.query.dtype)  # rounded last, because the gradient needs the unrounded output


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(plan: RingPlan, learned: RingLearned, fixed: RingFixed) -> tuple[Array, Array, Array, Array]:
    """Output and logsumexp of each row, and m and 1 / ℓ of each row for the gradient."""
    query, key, value, _, sinks = learned
    wide = at_least_float32(query).dtype

    def step(source: Any, key: Array, value: Array, gathered: Any) -> Any:
        top, total, read = gathered
        scores, seen = _scores(plan, learned._replace(key=key), fixed, source)
        scores = scores if seen is None else jnp.where(seen, scores, -jnp.inf)  # ... heads query key
        new_top = jnp.maximum(top, scores.max(-1))
        level = jnp.where(new_top == -jnp.inf, 0.0, new_top)  # -inf - -inf is NaN
        shares = jnp.exp(scores - level[..., None])
        fade = jnp.exp(top - level)
        here = _read(plan, shares, value.astype(wide), fixed, source)
        return new_top, fade * total + shares.sum(-1), fade[..., None] * read + here

    start = (
        jnp.full(query.shape[:-1], -jnp.inf, wide),
        jnp.zeros(query.shape[:-1], wide),
        jnp.zeros((*query.shape[:-1], value.shape[-1]), wide),
    )
    gathered = step(_source(plan, 0), key, value, start)

    def turn(carry: Any, hops: Array) -> Any:
        held, gathered = carry
        key, value = held = pass_on(held, plan.shards)
        return (held, step(_source(plan, hops), key, value, gathered)), None

    (_, (top, total, read)), _ = lax.scan(
        turn, ((key, value), gathered), jnp.arange(1, device_count(plan.shards))
    )
    if sinks is not None:
        sink = sinks[:, None].astype(wide)  # heads 1
        level = jnp.maximum(top, sink)
        level = jnp.where(level == -jnp.inf, 0.0, level)  # -inf - -inf is NaN
        fade = jnp.exp(top - level)
        top, total, read = level, fade * total + jnp.exp(sink - level), fade[..., None] * read
    visible = total > 0
    top = jnp.where(visible, top, 0.0)
    share = jnp.where(visible, 1.0 / jnp.where(visible, total, 1.0), 0.0)
    output = share[..., None] * read
    log_sum = jnp.where(visible, top + jnp.log(jnp.where(visible, total, 1.0)), -jnp.inf)
    return output, log_sum, top, share


def _forward(plan: RingPlan, learned: RingLearned, fixed: RingFixed) -> tuple[Any, Any]:
    results = _ring(plan, learned, fixed)
    return results, (learned, fixed, *results)


def _backward(plan: RingPlan, saved: Any, cotangents: Any) -> tuple[RingLearned, None]:
    learned, fixed, output, log_sum, top, share = saved
    query, key, value, bias, sinks = learned
    wide = top.dtype
    d_output, d_log_sum, _, _ = cotangents
    # Top and share have no gradient; this factor of 1 carries it, for derivatives of this gradient.
    share = share * jnp.exp(jnp.where(share > 0, lax.stop_gradient(log_sum) - log_sum, 0.0))
    # Subtracted from the gradient of every score, because the weights of a row sum to one.
    mean = (d_output * output).sum(-1) - d_log_sum  # ... heads query

    def turn(carry: Any, hops: Array) -> Any:
        (key, value, d_key, d_value), d_query, d_bias = carry
        source = _source(plan, hops)

        def scored(query: Array, key: Array, bias: Array | None) -> tuple[Array, Array | None]:
            return _scores(plan, learned._replace(query=query, key=key, bias=bias), fixed, source)

        vjp: Any = jax.vjp  # its type annotation does not depend on `has_aux`
        scores, pull, seen = vjp(scored, query, key, bias, has_aux=True)
        scores = scores if seen is None else jnp.where(seen, scores, -jnp.inf)
        shares = jnp.exp(scores - top[..., None]) * share[..., None]  # ... heads query key
        _, pull_read = vjp(
            lambda shares, value: _read(plan, shares, value, fixed, source), shares, value.astype(wide)
        )
        d_shares, d_value_here = pull_read(d_output)
        d_query_here, d_key_here, d_bias_here = pull(shares * (d_shares - mean[..., None]))
        held = key, value, d_key + d_key_here.astype(wide), d_value + d_value_here
        d_bias = None if bias is None else d_bias + d_bias_here.astype(wide)
        return (pass_on(held, plan.shards), d_query + d_query_here.astype(wide), d_bias), None

    zeros: list[Any] = [None if x is None else jnp.zeros(x.shape, wide) for x in (key, value, query, bias)]
    start: Any = (key, value, *zeros[:2]), *zeros[2:]
    ((_, _, d_key, d_value), d_query, d_bias), _ = lax.scan(
        turn, start, jnp.arange(device_count(plan.shards))
    )
    d_sinks = None
    if sinks is not None:
        shares = jnp.exp(sinks[:, None].astype(wide) - top) * share  # ... heads query
        d_sinks = -(shares * mean).sum((*range(shares.ndim - 2), -1))
    found: list[Any] = [d_query, d_key, d_value, d_bias, d_sinks]
    gradients: list[Any] = [
        None if d is None else d.astype(x.dtype) for d, x in zip(found, learned, strict=True)
    ]
    return RingLearned(*gradients), None


_ring.defvjp(_forward, _backward)


def _source(plan: RingPlan, hops: Any) -> Any:
    """Index of the device whose keys this device holds after `hops` steps."""
    return (own_number(plan.shards) - hops) % device_count(plan.shards)


def _scores(
    plan: RingPlan, learned: RingLearned, fixed: RingFixed, source: Any
) -> tuple[Array, Array | None]:
    """Scores of this device's queries with the keys that it currently holds, and their mask."""
    query_len, key_len = learned.query.shape[-2], learned.key.shape[-2]
    return dot_product_scores(
        learned.query,
        learned.key,
        part_of(learned.bias, source, plan.shards, axis=-1),
        part_of(fixed.mask, source, plan.shards, axis=-1),
        window=plan.window,
        query_offset=fixed.query_offset + own_number(plan.shards) * query_len - source * key_len,
        scale=plan.scale,
        softcap=plan.softcap,
    )


def _read(plan: RingPlan, shares: Array, value: Array, fixed: RingFixed, source: Any) -> Array:
    """Weighted sum of the values that this device currently holds."""
    keep = part_of(fixed.keep, source, plan.shards, axis=-1)
    return weighted_values(shares, value, dropout_keep=keep, dropout_rate=plan.dropout_rate)


RING = Implementation("ring", ring_refusal, ring_attention)
