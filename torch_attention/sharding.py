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

# Patterns for the end of a parameter's path; the first match counts, and parameters without a match are replicated.
TABLE = (
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.weight", (MODEL, None)),
    (r"\b(q|k|v|q_b|kv_b|gate|up)_proj\.bias", (MODEL,)),
    (r"\b(out|down)_proj\.weight", (None, MODEL)),
)


def make_mesh(sizes: Mapping[str, int], *, device: torch.device | str | None = None) -> DeviceMesh:
    """Make a device mesh with these axis names and sizes, from all devices or the first ones."""
    kind = torch.device("cpu" if device is None else device).type
    return init_device_mesh(kind, tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def on_mesh(mesh: DeviceMesh) -> AbstractContextManager[Any]:
    """Context manager in which sharded models run, forward and backward."""
    return _mended_operators()


def placements(model: nn.Module, mesh: DeviceMesh) -> dict[str, Any]:
    """Sharding of each parameter and buffer, by its path.

    A mesh axis whose size does not divide the array axis or the head count is not used there, so heads stay whole.
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
    """Shard the parameters of a model in place, and return the model."""
    where = placements(model, mesh)

    def part(path: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            placed = distribute_tensor(parameter.detach(), mesh, where[name])
            leaf = nn.Parameter(placed, requires_grad=parameter.requires_grad)
            module.register_parameter(name.rpartition(".")[-1], leaf)

    return distribute_module(model, mesh, part)  # which also replicates the buffers


def shard(x: Tensor, mesh: DeviceMesh, *axes: str | None) -> Tensor:
    """Shard an array: its first axis over the first of these mesh axes, and so on.

    A mesh axis that does not exist, or whose size does not divide the array axis, is ignored.
    """
    return distribute_tensor(x, mesh, _possible(axes, x.shape, mesh))


def _head_count(owner: Any, features: int) -> int | None:
    """Number of heads of a projection with `features` features; None for a module without heads."""
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
    """Work around DTensor bugs of PyTorch 2.13 within `on_mesh`; DTensor is unchanged outside it."""
    handlers = _handlers()
    added = {op: handler for op, handler in _MENDED.items() if op not in handlers}
    handlers.update(added)
    try:
        with implicit_replication():  # tensors that a model creates, such as rotary angles, are replicated
            yield
    finally:
        for op in added:
            handlers.pop(op, None)


def _handlers() -> dict[Any, Any]:
    """DTensor's table of replacements for operators, as PyTorch's `loss_parallel` uses it."""
    return getattr(DTensor._op_dispatcher, "_custom_op_handlers", {})


@contextmanager
def _unmended(op: Any) -> Iterator[None]:
    """Context manager in which an operator is DTensor's own again."""
    handlers = _handlers()
    mended = handlers.pop(op)
    try:
        yield
    finally:
        handlers[op] = mended


def _view_or_copy(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """View of an array; of a copy if the local strides forbid a view, of a gathered array if the shards do.

    DTensor keeps the strides of an array that it redistributes, although collectives return contiguous shards. So
    `reshape` and its gradient wrongly assume that a transposed array can be viewed after an all-reduce or all-gather.
    In-place writes to a copy do not reach the original.
    """
    x, *others = args
    with _unmended(op):
        try:
            return op(x, *others, **kwargs)
        except RuntimeError:
            x = x.clone(memory_format=torch.contiguous_format)
        try:
            return op(x, *others, **kwargs)
        except RuntimeError:  # for example, features sharded over more devices than heads
            whole = [Replicate() if each.is_shard() else each for each in x.placements]
            return op(x.redistribute(placements=whole), *others, **kwargs)


def _solve_alike(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Triangular solve with both sides sharded alike along the batch.

    DTensor otherwise combines a replicated matrix with a shard of the right-hand sides, although both have batch axes.
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
    """Cumulative sum or product with a non-negative axis number.

    With a negative number of a sharded axis, DTensor accumulates each shard separately.
    """
    x, axis, *others = args
    with _unmended(op):
        return op(x, axis % max(x.ndim, 1), *others, **kwargs)


def _unbind(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Unbind along an axis, gathered first: DTensor cannot unbind a sharded axis."""
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
