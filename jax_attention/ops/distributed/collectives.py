"""Collectives along the mesh axis that shards the sequence; every device of that axis calls each function."""

from typing import Any

from jax import Array, lax

from jax_attention.ops.distributed.shards import Shards


def device_count(shards: Shards) -> int:
    """Number of devices along the sequence axis."""
    return shards.mesh.shape[shards.sequence]


def own_number(shards: Shards) -> Any:
    """Index of this device along the sequence axis, from 0."""
    return lax.axis_index(shards.sequence)


def pass_on(held: tuple[Array, ...], shards: Shards) -> tuple[Array, ...]:
    """Send arrays to the next device of the ring, and return the arrays of the previous one."""
    count = device_count(shards)
    return lax.ppermute(held, shards.sequence, [(i, (i + 1) % count) for i in range(count)])


def exchange(x: Array, shards: Shards, *, parted: int, joined: int) -> Array:
    """All-to-all: split axis `parted` over the devices and concatenate along axis `joined`; both are negative."""
    return lax.all_to_all(
        x, shards.sequence, split_axis=x.ndim + parted, concat_axis=x.ndim + joined, tiled=True
    )


def part_of(x: Array | None, number: Any, shards: Shards, *, axis: int) -> Array | None:
    """Slice one device's part of an unsharded axis; an axis of size 1 is shared by all devices."""
    if x is None or x.shape[axis] == 1:
        return x
    size = x.shape[axis] // device_count(shards)
    return lax.dynamic_slice_in_dim(x, number * size, size, axis=x.ndim + axis)
