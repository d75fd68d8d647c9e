"""Attention on sharded arrays: each device computes its own shard.

A device mesh shards an array axis by axis. Batch elements and heads are independent, so sharding them needs no
communication. Along a sequence, every query needs every key: `ring` passes the keys around the devices, and
`all_to_all` gathers the sequence and shards the heads instead.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.sharding import AxisType, PartitionSpec

from jax_attention.checks import align, check_boolean
from jax_attention.ops.call import Call
from jax_attention.ops.heads import repeat_heads
from jax_attention.ops.rules import Visibility, visible_pairs

# Names of the mesh axes.
DATA = "data"
MODEL = "model"
SEQUENCE = "sequence"


class Shards(NamedTuple):
    """Sharding of an attention call.

    Attributes:
        mesh: device mesh.
        batch: mesh axes that shard the batch.
        heads: mesh axes that shard the heads.
        sequence: mesh axis that shards queries and keys; None for an unsharded sequence.
    """

    mesh: Any
    batch: tuple[Any, ...]
    heads: tuple[Any, ...]
    sequence: Any | None

    @property
    def head_count(self) -> int:
        """Number of devices that the heads are sharded over."""
        return prod(self.mesh.shape[axis] for axis in self.heads)


def shards_of(call: Call) -> Shards | None:
    """Sharding of a call; None for one device, and for a call that is already the shard of one device.

    A mesh axis whose size does not divide the array axis is not used.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {name: mesh.shape[name] for name in _free(mesh)}
    if not free.keys() & {DATA, MODEL, SEQUENCE}:  # other axis names belong to the user's own sharding
        return None
    *batch, heads, query_len, _ = call.query.shape

    def axes(name: str, *lengths: int) -> tuple[str, ...]:
        shared = name in free and all(length and length % free[name] == 0 for length in lengths)
        return (name,) if shared else ()

    sequence = axes(SEQUENCE, query_len, call.key.shape[-2]) if free.get(SEQUENCE, 1) > 1 else ()
    return Shards(
        mesh, axes(DATA, batch[0]) if batch else (), axes(MODEL, heads), sequence[0] if sequence else None
    )


def over_shards(call: Call, shards: Shards, run: Callable[[Call], Any], *, whole_rows: bool = False) -> Any:
    """Run a call on every device for its own shard.

    Args:
        call: checked call with the full arrays.
        shards: sharding of the call.
        run: function that computes one shard; it may communicate with the other devices along `shards.sequence`.
        whole_rows: whether `run` gets masks and biases for the queries of all devices, not only its own.
    """
    if not call.visibility.is_uniform:  # fold restrictions per batch element into the mask
        seen = visible_pairs(call.visibility, (*call.query.shape[:-1], call.key.shape[-2]))
        mask = seen if call.mask is None or seen is None else call.mask & seen
        call = call._replace(mask=mask, visibility=Visibility())
    key, value = call.key, call.value
    if key.shape[-3] % shards.head_count:
        key, value = (repeat_heads(x, call.query.shape[-3]) for x in (key, value))
    shape = (*call.query.shape[:-1], key.shape[-2])
    inner = (None,) * (len(shape) - 4)
    sequence = () if shards.sequence is None else (shards.sequence,)
    rows = () if whole_rows else sequence
    batch = (shards.batch, *inner) if len(shape) > 3 else ()
    features = PartitionSpec(*batch, shards.heads, sequence, None)

    def whole(name: str, x: Array | None) -> Array | None:
        if x is None:
            return None
        if name != "bias":
            check_boolean(name, x)
        x = align(name, x, shape)
        return x.reshape((1,) * (len(shape) - x.ndim) + x.shape)

    def pairs(x: Array | None) -> PartitionSpec:
        if x is None:
            return PartitionSpec()
        across = (*batch, shards.heads, rows, None)
        return PartitionSpec(
            *(axes if size > 1 else None for axes, size in zip(across, x.shape, strict=True))
        )

    bias, mask, keep = whole("bias", call.bias), whole("mask", call.mask), call.dropout_keep
    given: dict[str, tuple[Any, PartitionSpec]] = {
        "query": (call.query, features),
        "key": (key, features),
        "value": (value, features),
        "bias": (bias, pairs(bias)),
        "mask": (mask, pairs(mask)),
        "dropout_keep": (keep, pairs(keep)),
        "sinks": (call.sinks, PartitionSpec(shards.heads)),
        "query_offset": (call.visibility.query_offset, PartitionSpec()),
    }
    # A constant offset stays a Python integer.
    given = {name: pair for name, pair in given.items() if not isinstance(pair[0], int | None)}
    specs = {name: spec for name, (_, spec) in given.items()}

    def part(parts: dict[str, Any]) -> Any:
        own = dict(parts)
        offset = own.pop("query_offset", call.visibility.query_offset)
        return run(call._replace(**own, visibility=call.visibility._replace(query_offset=offset)))

    arrays = {name: x for name, (x, _) in given.items()}
    names = _free(shards.mesh)
    out = (features, PartitionSpec(*features[:-1])) if call.return_logsumexp else features
    mapped = jax.shard_map(part, in_specs=(specs,), out_specs=out, axis_names=names, check_vma=False)
    return mapped(arrays)


def _free(mesh: Any) -> set[str]:
    """Mesh axes whose sharding the compiler infers; not the axes of an enclosing `shard_map`."""
    return {
        name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto
    }
