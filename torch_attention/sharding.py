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

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication

from torch_attention.ops.distributed.shards import DATA as DATA
from torch_attention.ops.distributed.shards import MODEL as MODEL
from torch_attention.ops.distributed.shards import SEQUENCE as SEQUENCE

# By the end of a parameter's path; the first that fits, and what none fits every device has as a whole.
TABLE = (
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.weight", (MODEL, None)),
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.bias", (MODEL,)),
    (r"\b(out|down)_proj\.weight", (None, MODEL)),
)


def make_mesh(sizes: Mapping[str, int], *, device: torch.device | str | None = None) -> DeviceMesh:
    """All devices, or the first of them, in a grid whose axes have these names and sizes."""
    kind = torch.device("cpu" if device is None else device).type
    return init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def on_mesh(mesh: DeviceMesh) -> AbstractContextManager[Any]:
    """Within it, forward and backward, what is shared out on a mesh is computed where it is."""
    return implicit_replication()  # what a model makes itself, such as its angles, every device has


def placements(model: nn.Module, mesh: DeviceMesh) -> dict[str, Any]:
    """How each parameter and buffer is shared out, by its path.

    An axis that does not divide what it would share out, shares out nothing; heads stay whole.
    """
    found = {}
    for name, leaf in model.state_dict().items():
        axes = next((axes for end, axes in TABLE if re.search(end + "$", name)), ())
        features = next((size for axis, size in zip(axes, leaf.shape, strict=False) if axis), None)
        owner = model.get_submodule(".".join(name.split(".")[:-2]))
        heads = None if features is None else _head_count(owner, features)
        found[name] = _possible(axes, leaf.shape, mesh, heads)
    return found


def shard_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Share out the parameters of a model, in place, and return it."""
    where = placements(model, mesh)

    def part(path: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            placed = distribute_tensor(parameter.detach(), mesh, where[name])
            leaf = nn.Parameter(placed, requires_grad=parameter.requires_grad)
            module.register_parameter(name.rpartition(".")[-1], leaf)

    return distribute_module(model, mesh, part)  # which also gives the buffers to all


def shard(x: Tensor, mesh: DeviceMesh, *axes: str | None) -> Tensor:
    """Share out an array: its first axis by the first of these axes of the mesh, and so on.

    An axis that the mesh has not, or that does not divide what it would share out, shares out nothing.
    """
    return distribute_tensor(x, mesh, _possible(axes, x.shape, mesh))


def _head_count(owner: Any, features: int) -> int | None:
    """How many heads make so many features in a module; None where there are none."""
    sizes = getattr(owner, "config", owner)
    head_dim = getattr(sizes, "head_dim", None)
    return features // head_dim if head_dim else getattr(sizes, "num_heads", None)


def _possible(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: DeviceMesh, heads: int | None = None
) -> list[Placement]:
    names = mesh.mesh_dim_names or ()
    found: list[Placement] = [Replicate()] * mesh.ndim
    for dim, (axis, size) in enumerate(zip(axes, shape, strict=False)):
        if axis in names and all(n % mesh[axis].size() == 0 for n in (size, heads or 0)):
            found[names.index(axis)] = Shard(dim)
    return found
