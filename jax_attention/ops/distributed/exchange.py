"""Attention with an exchange: sequences come together and heads part, and back again (Jacobs et al. 2023).

DeepSpeed Ulysses, arXiv 2309.14509. With n devices each holds one n-th of the sequence, of all heads. An all-to-all
gives each of them the whole sequence of one n-th of the heads, which attend by themselves as on one device; a second
one brings what was read back to where its query is.
"""

from functools import partial

from jax import Array
from jaxtyping import Float

from jax_attention.ops.call import Call, Implementation
from jax_attention.ops.choice import differentiable
from jax_attention.ops.distributed.collectives import device_count, exchange, own_number, part_of
from jax_attention.ops.distributed.shards import Shards, over_shards, shards_of
from jax_attention.ops.heads import repeat_heads


def exchange_refusal(call: Call) -> str | None:
    """What attention with an exchange cannot do of a call."""
    if call.return_logsumexp:
        return "all_to_all attention gives no logsumexp"
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


def exchange_attention(call: Call) -> Float[Array, "*batch heads query value_dim"]:
    """The mean of the values, weighted by how well each key answers the query; every head on one device."""
    shards = shards_of(call)
    assert shards is not None
    return over_shards(call, shards, partial(exchange_part, shards=shards), whole_rows=True)


def exchange_part(call: Call, *, shards: Shards) -> Float[Array, "*batch heads query value_dim"]:
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
    return exchange(differentiable(whole), shards, parted=-2, joined=-3)


ALL_TO_ALL = Implementation("all_to_all", exchange_refusal, exchange_attention)
