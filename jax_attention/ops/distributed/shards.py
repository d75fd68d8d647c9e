"""Attention on arrays that several devices share out: each computes on its own part.

A mesh of devices shares out an array axis by axis. Batch elements and heads attend each by itself, so a device that
holds some of them has all it needs. Along a sequence every query wants every key: `ring` brings the keys round,
`all_to_all` gathers the sequence and shares out the heads instead.
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

# What the axes of a mesh are called.
DATA = "data"
MODEL = "model"
SEQUENCE = "sequence"


class Shards(NamedTuple):
    """How the devices share out a call.

    Attributes:
        mesh: the devices.
        batch: the axes of the mesh that share out the batch.
        heads: the axes that share out the heads.
        sequence: the axis that shares out queries and keys, if there is one.
    """

    mesh: Any
    batch: tuple[Any, ...]
    heads: tuple[Any, ...]
    sequence: Any | None

    @property
    def head_count(self) -> int:
        """How many devices share out the heads."""
        return prod(self.mesh.shape[axis] for axis in self.heads)


def shards_of(call: Call) -> Shards | None:
    """How the devices share out a call; None where there is one device, or the call is one device's part already.

    An axis that does not divide what it would share out, shares out nothing.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {name: mesh.shape[name] for name in _free(mesh)}
    if not free.keys() & {DATA, MODEL, SEQUENCE}:  # axes that others named mean what they say elsewhere
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
    """Answer a call on every device for its own part.

    Args:
        call: of whole arrays.
        shards: how they are shared out.
        run: answers a part; may speak with the other devices along `shards.sequence`.
        whole_rows: whether `run` has masks and biases for the queries of all devices, and not for its own alone.
    """
    if not call.visibility.is_uniform:  # what each batch element has of its own becomes a part of the mask
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
    # An offset that is known stays so: it is no array.
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
    """The axes of a mesh whose sharing out is left to the compiler: not those of a part that is computed already."""
    return {
        name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto
    }
