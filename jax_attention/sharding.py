"""Sharding of models over several devices: annotate the parameters once; the communication follows from it.

| mesh axis  | shards                                         | communication                                   |
|------------|------------------------------------------------|-------------------------------------------------|
| `data`     | the batch                                      | all-reduce of the gradients                     |
| `model`    | heads, and hidden features of feed-forwards    | all-reduce after each attention and feed-forward |
| `sequence` | the positions of a sequence                    | keys and values in a ring (`distributed/ring`)  |

A projection sharded along its outputs is followed by one sharded along its inputs, so no communication is needed
between the two (Shoeybi et al. 2019, Megatron-LM). The code of the model and its results are the same as on one device.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
from flax import nnx
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_attention.ops.distributed.shards import DATA as DATA
from jax_attention.ops.distributed.shards import MODEL as MODEL
from jax_attention.ops.distributed.shards import SEQUENCE as SEQUENCE

# Patterns for the end of a parameter's path; the first match counts, and parameters without a match are replicated.
TABLE = (
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.kernel", PartitionSpec(None, MODEL)),
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.bias", PartitionSpec(MODEL)),
    (r"\b(out|down)_proj\.kernel", PartitionSpec(MODEL, None)),
)


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """Make a device mesh with these axis names and sizes, from all devices or the first ones."""
    free = (AxisType.Auto,) * len(sizes)  # the compiler infers the sharding of results
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=free)


def on_mesh(mesh: Mesh) -> AbstractContextManager[Any]:
    """Context manager in which sharded models run, forward and backward."""
    return jax.set_mesh(mesh)


def placements(model: nnx.Module, mesh: Mesh) -> dict[str, Any]:
    """Sharding of each parameter and buffer, by its path.

    A mesh axis whose size does not divide the array axis or the head count is not used there, so heads stay whole.
    """
    found = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        name = ".".join(map(str, path))
        spec = next((spec for end, spec in TABLE if re.search(end + "$", name)), PartitionSpec())
        features = next((size for axis, size in zip(spec, leaf.shape, strict=False) if axis), None)
        heads = None if features is None else _head_count(_owner(model, path[:-2]), features)
        found[name] = NamedSharding(mesh, _possible(spec, leaf.shape, mesh, heads))
    return found


def shard_model(model: nnx.Module, mesh: Mesh) -> nnx.Module:
    """Shard the parameters of a model in place, and return the model."""
    where = placements(model, mesh)
    state = nnx.state(model)
    flat = [(path, leaf, where[".".join(map(str, path))]) for path, leaf in nnx.to_flat_state(state)]
    nnx.update(
        model,
        nnx.from_flat_state(
            [(path, leaf.replace(jax.device_put(leaf[...], place))) for path, leaf, place in flat]
        ),
    )
    return model


def shard(x: Array, mesh: Mesh, *axes: str | None) -> Array:
    """Shard an array: its first axis over the first of these mesh axes, and so on.

    A mesh axis that does not exist, or whose size does not divide the array axis, is ignored.
    """
    return jax.device_put(x, NamedSharding(mesh, _possible(PartitionSpec(*axes), x.shape, mesh)))


def _owner(model: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        model = model[step] if isinstance(step, int) else getattr(model, step)
    return model


def _head_count(owner: Any, features: int) -> int | None:
    """Number of heads of a projection with `features` features; None for a module without heads."""
    sizes = getattr(owner, "config", owner)
    head_dim = getattr(sizes, "head_dim", None)
    return features // head_dim if head_dim else getattr(sizes, "num_heads", None)


def _possible(
    spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh, heads: int | None = None
) -> PartitionSpec:
    def divides(axis: Any, size: int) -> bool:
        return axis in mesh.shape and all(n % mesh.shape[axis] == 0 for n in (size, heads or 0))

    return PartitionSpec(
        *(axis if divides(axis, size) else None for axis, size in zip(spec, shape, strict=False))
    )
