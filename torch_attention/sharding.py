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
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
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
    return _mended_operators()


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


@contextmanager
def _mended_operators() -> Iterator[None]:
    """DTensor without faults that PyTorch 2.13 has; within `on_mesh` alone, so that others find it unchanged."""
    handlers = _handlers()
    added = {op: handler for op, handler in _MENDED.items() if op not in handlers}
    handlers.update(added)
    try:
        with implicit_replication():  # what a model makes itself, such as its angles, every device has
            yield
    finally:
        for op in added:
            handlers.pop(op, None)


def _handlers() -> dict[Any, Any]:
    """What DTensor calls in place of an operator, as `loss_parallel` of PyTorch uses it."""
    return getattr(DTensor._op_dispatcher, "_custom_op_handlers", {})


@contextmanager
def _unmended(op: Any) -> Iterator[None]:
    """Within it an operator is DTensor's own."""
    handlers = _handlers()
    mended = handlers.pop(op)
    try:
        yield
    finally:
        handlers[op] = mended


def _view_or_copy(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A view; of a copy where the parts' strides forbid one, of a gathered array where the shards do.

    DTensor keeps the strides of an array that it redistributes, but collectives return contiguous parts. So `reshape`
    and its gradient take a transposed array that was summed or gathered for one that they can view. A copy is no place
    to write to.
    """
    x, *others = args
    with _unmended(op):
        try:
            return op(x, *others, **kwargs)
        except RuntimeError:
            x = x.clone(memory_format=torch.contiguous_format)
        try:
            return op(x, *others, **kwargs)
        except RuntimeError:  # as where more devices than heads share out the features
            whole = [Replicate() if each.is_shard() else each for each in x.placements]
            return op(x.redistribute(placements=whole), *others, **kwargs)


def _solve_alike(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A triangular system whose two sides are shared out alike.

    DTensor takes a whole matrix and a part of the right sides for a pair, though both have the batch's axes.
    """
    mesh = next(x.device_mesh for x in args if isinstance(x, DTensor))
    whole = [Replicate()] * mesh.ndim
    sides = [
        x if isinstance(x, DTensor) else DTensor.from_local(x, mesh, whole, run_check=False) for x in args
    ]
    batch = [dim for dim in range(args[1].ndim - 2) if args[0].shape[:-2] == args[1].shape[:-2]]
    where = [
        next((each for each in pair if any(each.is_shard(dim) for dim in batch)), Replicate())
        for pair in zip(*(x.placements for x in reversed(sides)), strict=True)
    ]
    with _unmended(op):
        return op(*(x.redistribute(placements=where) for x in sides), **kwargs)


def _cumulate(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Sums or products along an axis that counts from the front.

    Along one that counts from the back, and is shared out, DTensor adds up each part for itself.
    """
    x, axis, *others = args
    with _unmended(op):
        return op(x, axis % max(x.ndim, 1), *others, **kwargs)


def _unbind(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The elements along an axis, which DTensor does not take apart where it is shared out."""
    x, axis = (*args, 0)[:2]
    where = [Replicate() if each.is_shard(axis % x.ndim) else each for each in x.placements]
    with _unmended(op):
        return op(x.redistribute(placements=where), axis, **kwargs)


_ATEN = torch.ops.aten
_MENDED = {
    _ATEN.view.default: _view_or_copy,
    _ATEN.linalg_solve_triangular.default: _solve_alike,
    _ATEN.cumsum.default: _cumulate,
    _ATEN.cumprod.default: _cumulate,
    _ATEN.logcumsumexp.default: _cumulate,
    _ATEN.unbind.int: _unbind,
}
