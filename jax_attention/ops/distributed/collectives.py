"""How the devices that share out a sequence speak with each other; each function is called on all of them."""

from typing import Any

from jax import Array, lax

from jax_attention.ops.distributed.shards import Shards


def device_count(shards: Shards) -> int:
    """How many devices share out the sequence."""
    return shards.mesh.shape[shards.sequence]


def own_number(shards: Shards) -> Any:
    """Which of them this one is, from 0."""
    return lax.axis_index(shards.sequence)


def pass_on(held: tuple[Array, ...], shards: Shards) -> tuple[Array, ...]:
    """Give what is held to the next device, the last to the first, and take what the one before held."""
    count = device_count(shards)
    return lax.ppermute(held, shards.sequence, [(i, (i + 1) % count) for i in range(count)])


def exchange(x: Array, shards: Shards, *, parted: int, joined: int) -> Array:
    """Part one axis, a part for each device, and join along another what all of them give; axes count from -1."""
    return lax.all_to_all(
        x, shards.sequence, split_axis=x.ndim + parted, concat_axis=x.ndim + joined, tiled=True
    )


def part_of(x: Array | None, number: Any, shards: Shards, *, axis: int) -> Array | None:
    """Of an axis that is here as a whole, the part of one device; an axis of size 1 is everyone's."""
    if x is None or x.shape[axis] == 1:
        return x
    size = x.shape[axis] // device_count(shards)
    return lax.dynamic_slice_in_dim(x, number * size, size, axis=x.ndim + axis)
