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

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arrays import REALS
from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.definition import dot_product_scores, weighted_values
from torch_attention.ops.distributed.collectives import device_count, own_number, part_of, pass_on
from torch_attention.ops.distributed.shards import Shards, over_shards, shards_of
from torch_attention.ops.softmax import at_least_float32


class RingLearned(NamedTuple):
    """Arrays with gradients, with this device's queries, keys and values; as in `Call`."""

    query: Float[Tensor, "*batch heads query head_dim"]
    key: Float[Tensor, "*batch kv_heads key head_dim"]
    value: Float[Tensor, "*batch kv_heads key value_dim"]
    bias: Float[Tensor, "..."] | None
    sinks: Float[Tensor, "heads"] | None


class RingFixed(NamedTuple):
    """Arguments without gradients, for this device's queries and the keys of all devices."""

    mask: Bool[Tensor, "..."] | None
    keep: Bool[Tensor, "..."] | None
    query_offset: int | Int[Tensor, ""]


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


def ring_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Compute `dot_product_attention` over a ring of devices; every key visits every device."""
    shards = shards_of(call)
    assert shards is not None
    return over_shards(call, shards, partial(ring_part, shards=shards))


def ring_part(call: Call, *, shards: Shards) -> Float[Tensor, "*batch heads query value_dim"]:
    """Output for the queries of one device, from a call with its own queries, keys and values."""
    seen = call.visibility
    plan = RingPlan(shards, (seen.before, seen.after), call.scale, call.softcap, call.dropout_rate)
    learned = RingLearned(call.query, call.key, call.value, call.bias, call.sinks)
    output, *_ = _Ring.apply(plan, RingFixed(call.mask, call.dropout_keep, seen.query_offset), *learned)
    return output.to(call.query.dtype)  # rounded last, because the gradient needs the unrounded output


class _Ring(torch.autograd.Function):
    """One round of the ring forward and one backward; gradients of gradients use the ring in the same way."""

    @staticmethod
    def forward(ctx: Any, plan: RingPlan, fixed: RingFixed, *arrays: Any) -> tuple[Tensor, ...]:
        learned = RingLearned(*arrays)
        query, key, value, _, sinks = learned
        wide = at_least_float32(query).dtype

        top = torch.full(query.shape[:-1], -torch.inf, dtype=wide, device=query.device)
        total = torch.zeros_like(top)
        read = top.new_zeros((*query.shape[:-1], value.shape[-1]))
        for hops in range(device_count(plan.shards)):
            if hops:
                key, value = pass_on((key, value), plan.shards)
            source = _source(plan, hops)
            scores, seen = _scores(plan, learned._replace(key=key), fixed, source)
            scores = scores if seen is None else torch.where(seen, scores, -torch.inf)  # ... heads query key
            new_top = torch.maximum(top, scores.amax(-1))
            level = torch.where(new_top == -torch.inf, 0.0, new_top)  # -inf - -inf is NaN
            shares = torch.exp(scores - level[..., None])
            fade = torch.exp(top - level)
            here = _read(plan, shares, value.to(wide), fixed, source)
            top, total, read = new_top, fade * total + shares.sum(-1), fade[..., None] * read + here
        if sinks is not None:
            sink = sinks[:, None].to(wide)  # heads 1
            level = torch.maximum(top, sink)
            level = torch.where(level == -torch.inf, 0.0, level)  # -inf - -inf is NaN
            fade = torch.exp(top - level)
            top, total, read = level, fade * total + torch.exp(sink - level), fade[..., None] * read
        visible = total > 0
        top = torch.where(visible, top, 0.0)
        share = torch.where(visible, 1.0 / torch.where(visible, total, 1.0), 0.0)
        output = share[..., None] * read
        log_sum = torch.where(visible, top + torch.log(torch.where(visible, total, 1.0)), -torch.inf)
        ctx.plan, ctx.fixed = plan, fixed
        ctx.mark_non_differentiable(top, share)
        ctx.save_for_backward(*learned, output, log_sum, top, share)
        return output, log_sum, top, share

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_log_sum: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        plan, fixed = ctx.plan, ctx.fixed
        *arrays, output, log_sum, top, share = ctx.saved_tensors
        learned = RingLearned(*arrays)
        query, key, value, bias, sinks = learned
        wide = top.dtype
        # Top and share have no gradient; this factor of 1 carries it, for derivatives of this gradient.
        share = share * torch.exp(torch.where(share > 0, log_sum.detach() - log_sum, 0.0))
        # Subtracted from the gradient of every score, because the weights of a row sum to one.
        mean = (d_output * output).sum(-1) - d_log_sum  # ... heads query

        zeros: list[Any] = [
            None if x is None else torch.zeros_like(x, dtype=wide) for x in (key, value, query, bias)
        ]
        d_key, d_value, d_query, d_bias = zeros
        for hops in range(device_count(plan.shards)):
            source = _source(plan, hops)

            def scored(query: Tensor, key: Tensor, *bias: Tensor, source: int = source) -> tuple[Any, Any]:
                given = learned._replace(query=query, key=key, bias=bias[0] if bias else None)
                scores, seen = _scores(plan, given, fixed, source)
                return scores, () if seen is None else seen

            given = (query, key) if bias is None else (query, key, bias)
            vjp: Any = torch.func.vjp  # its type annotation does not depend on `has_aux`
            scores, pull, seen = vjp(scored, *given, has_aux=True)
            scores = torch.where(seen, scores, -torch.inf) if isinstance(seen, Tensor) else scores
            shares = torch.exp(scores - top[..., None]) * share[..., None]  # ... heads query key
            _, pull_read = vjp(partial(_read, plan, fixed=fixed, source=source), shares, value.to(wide))
            d_shares, d_value_here = pull_read(d_output)
            d_query_here, d_key_here, *d_bias_here = pull(shares * (d_shares - mean[..., None]))
            d_query = d_query + d_query_here.to(wide)
            d_bias = None if bias is None else d_bias + d_bias_here[0].to(wide)
            held = key, value, d_key + d_key_here.to(wide), d_value + d_value_here
            key, value, d_key, d_value = pass_on(held, plan.shards)
        d_sinks = None
        if sinks is not None:
            shares = torch.exp(sinks[:, None].to(wide) - top) * share  # ... heads query
            d_sinks = -(shares * mean).sum((*range(shares.ndim - 2), -1))
        found: list[Any] = [d_query, d_key, d_value, d_bias, d_sinks]
        gradients = (None if d is None else d.to(x.dtype) for d, x in zip(found, arrays, strict=True))
        return None, None, *gradients


def _source(plan: RingPlan, hops: Any) -> Any:
    """Index of the device whose keys this device holds after `hops` steps."""
    return (own_number(plan.shards) - hops) % device_count(plan.shards)


def _scores(
    plan: RingPlan, learned: RingLearned, fixed: RingFixed, source: Any
) -> tuple[Tensor, Tensor | None]:
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


def _read(plan: RingPlan, shares: Tensor, value: Tensor, fixed: RingFixed, source: Any) -> Tensor:
    """Weighted sum of the values that this device currently holds."""
    keep = part_of(fixed.keep, source, plan.shards, axis=-1)
    return weighted_values(shares, value, dropout_keep=keep, dropout_rate=plan.dropout_rate)


RING = Implementation("ring", ring_refusal, ring_attention)
