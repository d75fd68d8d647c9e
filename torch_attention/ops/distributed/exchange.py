"""All-to-all attention: heads are sharded instead of the sequence during attention (Jacobs et al. 2023).

DeepSpeed Ulysses, arXiv 2309.14509. Each of n devices holds 1/n of the sequence, for all heads. An all-to-all gives
each device the whole sequence for 1/n of the heads, which attend as on one device. A second all-to-all returns the
outputs to the devices of their queries.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.choice import differentiable
from torch_attention.ops.distributed.collectives import device_count, exchange, own_number, part_of
from torch_attention.ops.distributed.shards import Shards, over_shards, shards_of
from torch_attention.ops.heads import repeat_heads


def exchange_refusal(call: Call) -> str | None:
    """Reason why all-to-all attention does not support a call; None if it does."""
    if call.return_logsumexp:
        return "all_to_all attention gives no logsumexp"
    shards = shards_of(call)
    if shards is None or shards.sequence is None:
        lengths = call.query.shape[-2], call.key.shape[-2]
        return (
            "all_to_all attention needs both lengths sharded evenly over several devices, "
            f"got lengths {lengths[0]} and {lengths[1]}"
        )
    heads, count = call.query.shape[-3], shards.head_count * device_count(shards)
    if heads % count:
        return f"all_to_all attention needs a number of heads that {count} devices divide, got {heads} heads"
    return None


def exchange_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Compute `dot_product_attention` with two all-to-alls; each head attends on one device."""
    shards = shards_of(call)
    assert shards is not None
    return over_shards(call, shards, partial(exchange_part, shards=shards), whole_rows=True)


def exchange_part(call: Call, *, shards: Shards) -> Float[Tensor, "*batch heads query value_dim"]:
    """Output for the queries of one device, from its queries, keys and values, and masks for all queries."""
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
