"""Models on several devices: what each of them holds is written down, and what they must say to each other follows.

| axis of the mesh | shares out                                  | what it costs                                |
|------------------|---------------------------------------------|----------------------------------------------|
| `data`           | the batch                                   | gradients are summed                         |
| `model`          | heads, and features within feed-forwards    | a sum after each attention and feed-forward  |
| `sequence`       | the places of a sequence                    | keys and values go round (`distributed/ring`)|

A matrix whose outputs are shared out, then one whose inputs are: between the two no device needs what another has
(Shoeybi et al. 2019, Megatron-LM). The model's code is the same as on one device, its results too.
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

# By the end of a parameter's path; the first that fits, and what none fits every device has as a whole.
TABLE = (
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.kernel", PartitionSpec(None, MODEL)),
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.bias", PartitionSpec(MODEL)),
    (r"\b(out|down)_proj\.kernel", PartitionSpec(MODEL, None)),
)


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """All devices, or the first of them, in a grid whose axes have these names and sizes."""
    free = (AxisType.Auto,) * len(sizes)  # the compiler finds out how results are shared out
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=free)


def on_mesh(mesh: Mesh) -> AbstractContextManager[Any]:
    """Within it, forward and backward, what is shared out on a mesh is computed where it is."""
    return jax.set_mesh(mesh)


def placements(model: nnx.Module, mesh: Mesh) -> dict[str, Any]:
    """How each parameter and buffer is shared out, by its path.

    An axis that does not divide what it would share out, shares out nothing; heads stay whole.
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
    """Share out the parameters of a model, in place, and return it."""
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
    """Share out an array: its first axis by the first of these axes of the mesh, and so on.

    An axis that the mesh has not, or that does not divide what it would share out, shares out nothing.
    """
    return jax.device_put(x, NamedSharding(mesh, _possible(PartitionSpec(*axes), x.shape, mesh)))


def _owner(model: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        model = model[step] if isinstance(step, int) else getattr(model, step)
    return model


def _head_count(owner: Any, features: int) -> int | None:
    """How many heads make so many features in a module; None where there are none."""
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
