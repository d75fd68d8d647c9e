"""Attention with an exchange: sequences come together and heads part, and back again (Jacobs et al. 2023).

DeepSpeed Ulysses, arXiv 2309.14509. With n devices each holds one n-th of the sequence, of all heads. An all-to-all
gives each of them the whole sequence of one n-th of the heads, which attend by themselves as on one device; a second
one brings what was read back to where its query is.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.choice import fastest
from torch_attention.ops.collectives import device_count, exchange, own_number, part_of
from torch_attention.ops.heads import repeat_heads
from torch_attention.ops.native import SDPA
from torch_attention.ops.reference import REFERENCE
from torch_attention.ops.shards import Shards, over_shards, shards_of


def exchange_refusal(call: Call) -> str | None:
    """What attention with an exchange cannot do of a call."""
    shards = shards_of(call)
    if shards is None or shards.sequence is None:
        lengths = call.query.shape[-2], call.key.shape[-2]
        return (
            "all_to_all attention needs several devices that share out both lengths evenly, "
            f"got lengths {lengths[0]} and {lengths[1]}"
        )
    heads, count = call.query.shape[-3], shards.head_count * device_count(shards)
    if heads % count:
        return (
            f"all_to_all attention needs heads that {count} devices can share out evenly, got {heads} heads"
        )
    return None


def exchange_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """The mean of the values, weighted by how well each key answers the query; every head on one device."""
    shards = shards_of(call)
    assert shards is not None
    return over_shards(call, shards, partial(exchange_part, shards=shards), whole_rows=True)


def exchange_part(call: Call, *, shards: Shards) -> Float[Tensor, "*batch heads query value_dim"]:
    """What one device reads: it has its own queries, keys and values, and masks for the queries of all."""
    own = own_number(shards)
    key, value = call.key, call.value
    if key.shape[-3] % device_count(shards):
        key, value = (repeat_heads(x, call.query.shape[-3]) for x in (key, value))
    query, key, value = (exchange(x, shards, parted=-3, joined=-2) for x in (call.query, key, value))
    whole = call._replace(
        query=query,
        key=key,
        value=value,
        bias=part_of(call.bias, own, shards, axis=-3),
        mask=part_of(call.mask, own, shards, axis=-3),
        sinks=part_of(call.sinks, own, shards, axis=-1),
        dropout_keep=part_of(call.dropout_keep, own, shards, axis=-3),
    )
    return exchange(_attended(whole), shards, parted=-2, joined=-3)


def _attended(call: Call) -> Tensor:
    """`fastest`, with derivatives of every order."""
    if SDPA.refusal(call) or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return fastest(call)
    return _Attended.apply(call, call.query, call.key, call.value, call.bias)


class _Attended(torch.autograd.Function):
    """A fused kernel, which is differentiable once, and for the derivatives of its gradient the definition."""

    @staticmethod
    def forward(ctx: Any, call: Call, *learned: Any) -> Tensor:
        given = [None if x is None else x.detach().requires_grad_(x.requires_grad) for x in learned]
        with torch.enable_grad():
            output = fastest(_with_learned(call, given))
        ctx.call, ctx.given, ctx.output = call, given, output
        ctx.save_for_backward(*learned)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # a derivative of this gradient may be asked for
        given = list(ctx.saved_tensors) if again else ctx.given
        output = REFERENCE.run(_with_learned(ctx.call, given)) if again else ctx.output
        asked = [i for i, x in enumerate(given) if x is not None and x.requires_grad]
        found = torch.autograd.grad(
            output, [given[i] for i in asked], d_output, retain_graph=True, create_graph=again
        )
        gradients: list[Tensor | None] = [None] * len(given)
        for i, gradient in zip(asked, found, strict=True):
            gradients[i] = gradient
        return None, *gradients


def _with_learned(call: Call, learned: list[Any]) -> Call:
    query, key, value, bias = learned
    return call._replace(query=query, key=key, value=value, bias=bias)


ALL_TO_ALL = Implementation("all_to_all", exchange_refusal, exchange_attention)
