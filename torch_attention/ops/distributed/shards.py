"""Attention on sharded arrays: each device computes its own shard.

A device mesh shards an array axis by axis. Batch elements and heads are independent, so sharding them needs no
communication. Along a sequence, every query needs every key: `ring` passes the keys around the devices, and
`all_to_all` gathers the sequence and shards the heads instead.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_attention.checks import align, check_boolean
from torch_attention.ops.arrays import is_dual
from torch_attention.ops.call import Call
from torch_attention.ops.heads import repeat_heads
from torch_attention.ops.rules import Visibility, visible_pairs

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
        return prod(self.mesh.size(axis) for axis in self.heads)


def shards_of(call: Call) -> Shards | None:
    """Sharding of a call; None for one device, and for a call that is already the shard of one device.

    A mesh axis whose size does not divide the array axis is not used.
    """
    query: Any = call.query
    mesh = getattr(query, "device_mesh", None)  # set on DTensors, which are not imported here
    if mesh is None:
        return None
    lengths = query.shape[-2], call.key.shape[-2]
    batch: list[int] = []
    heads: list[int] = []
    sequence: list[int] = []
    shares = {"batch": 1, "heads": 1}
    for axis, placement in enumerate(query.placements):
        if not placement.is_shard():
            continue
        size, dim = mesh.size(axis), placement.dim % query.ndim - query.ndim
        if dim == -2 and size > 1 and not sequence and not any(length % size for length in lengths):
            sequence.append(axis)
        elif dim == -3 and query.shape[-3] % (shares["heads"] * size) == 0:
            shares["heads"] *= size
            heads.append(axis)
        elif dim == -query.ndim and dim < -3 and query.shape[0] % (shares["batch"] * size) == 0:
            shares["batch"] *= size
            batch.append(axis)
    return Shards(mesh, tuple(batch), tuple(heads), sequence[0] if sequence else None)


def over_shards(call: Call, shards: Shards, run: Callable[[Call], Any], *, whole_rows: bool = False) -> Any:
    """Run a call on every device for its own shard.

    Args:
        call: checked call with the full arrays.
        shards: sharding of the call.
        run: function that computes one shard; it may communicate with the other devices along `shards.sequence`.
        whole_rows: whether `run` gets masks and biases for the queries of all devices, not only its own.
    """
    from torch.distributed.tensor import Partial, Placement, Replicate, Shard

    if is_dual(call):
        raise NotImplementedError(
            "attention over several devices has no forward mode, got an array with a tangent"
        )
    if not call.visibility.is_uniform:  # fold restrictions per batch element into the mask
        seen = visible_pairs(
            call.visibility, (*call.query.shape[:-1], call.key.shape[-2]), device=call.query.device
        )
        mask = seen if call.mask is None or seen is None else call.mask & seen
        call = call._replace(mask=mask, visibility=Visibility())
    key, value = call.key, call.value
    if key.shape[-3] % shards.head_count:
        key, value = (repeat_heads(x, call.query.shape[-3]) for x in (key, value))
    shape = (*call.query.shape[:-1], key.shape[-2])
    rank = len(shape)
    sequence = () if shards.sequence is None else (shards.sequence,)

    def placed(where: dict[int, tuple[Any, ...]], x: Tensor | None = None) -> tuple[Placement, ...]:
        """Placements from the mesh axes of each array axis; array axes of size 1 are replicated."""
        found: list[Placement] = [Replicate()] * shards.mesh.ndim
        for dim, axes in where.items():
            for axis in axes:
                if x is None or x.shape[dim] > 1:
                    found[axis] = Shard(dim)
        return tuple(found)

    def whole(name: str, x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        if name != "bias":
            check_boolean(name, x)
        x = align(name, x, shape)
        return x.reshape((1,) * (rank - x.ndim) + tuple(x.shape))

    batch = {0: shards.batch} if rank > 3 else {}
    features = placed({**batch, rank - 3: shards.heads, rank - 2: sequence})
    across = {**batch, rank - 3: shards.heads, rank - 2: () if whole_rows else sequence}
    bias, mask, keep = whole("bias", call.bias), whole("mask", call.mask), call.dropout_keep
    given: dict[str, tuple[Any, tuple[Placement, ...]]] = {
        "query": (call.query, features),
        "key": (key, features),
        "value": (value, features),
        "bias": (bias, placed(across, bias)),
        "mask": (mask, placed(across, mask)),
        "dropout_keep": (keep, placed(across, keep)),
        "sinks": (call.sinks, placed({0: shards.heads})),
        "query_offset": (call.visibility.query_offset, placed({})),
    }
    arrays = {name: pair for name, pair in given.items() if isinstance(pair[0], Tensor)}
    shared = {axis for axes in (shards.batch, shards.heads, sequence) for axis in axes}

    def of_gradient(placements: tuple[Placement, ...]) -> tuple[Placement, ...]:
        """Placements of gradients: the gradient of a replicated array is a partial sum."""
        return tuple(
            Partial() if axis in shared and isinstance(each, Replicate) else each
            for axis, each in enumerate(placements)
        )

    def part(*parts: Tensor) -> Any:
        own: dict[str, Any] = dict(zip(arrays, parts, strict=True))
        offset = own.pop("query_offset", call.visibility.query_offset)
        return run(call._replace(**own, visibility=call.visibility._replace(query_offset=offset)))

    parts = (_Part.apply(_distributed(x, shards), where, of_gradient(where)) for x, where in arrays.values())
    found = part(*parts)
    if not call.return_logsumexp:
        return _Whole.apply(found, shards.mesh, features, features, features)
    # The logsumexp is sharded like the output: it has the same axes without the last one, which is not sharded.
    return tuple(_Whole.apply(x, shards.mesh, features, features, features) for x in found)


def _distributed(x: Tensor, shards: Shards) -> Tensor:
    """Convert an array that every device holds to a replicated DTensor."""
    from torch.distributed.tensor import DTensor, Replicate

    if isinstance(x, DTensor):
        return x
    return DTensor.from_local(x, shards.mesh, [Replicate()] * shards.mesh.ndim, run_check=False)


class _Part(torch.autograd.Function):
    """Local shard of an array, differentiable any number of times, unlike `DTensor.to_local`.

    The arguments are the array, its placements, and the placements of its gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, placements: Any, of_gradient: Any) -> Tensor:
        ctx.mesh, ctx.placements, ctx.of_gradient = x.device_mesh, placements, of_gradient
        ctx.before = x.placements
        part = x.detach().redistribute(placements=placements).to_local()
        return part.wait() if hasattr(part, "wait") else part.view_as(part)

    @staticmethod
    def backward(ctx: Any, d_part: Tensor) -> tuple[Tensor | None, ...]:
        from torch.distributed.tensor import Replicate

        after = tuple(Replicate() if each.is_partial() else each for each in ctx.before)
        after = ctx.of_gradient if ctx.before == ctx.placements else after
        return _Whole.apply(d_part, ctx.mesh, ctx.of_gradient, after, ctx.placements), None, None


class _Whole(torch.autograd.Function):
    """Assemble a DTensor from local shards: the inverse of `_Part`.

    The arguments are the local shard, the mesh, the placements of the shards, the placements of the result, and the
    placements of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, mesh: Any, placements: Any, after: Any, of_gradient: Any) -> Tensor:
        from torch.distributed.tensor import DTensor

        ctx.placements, ctx.of_gradient = placements, of_gradient
        return DTensor.from_local(part.detach(), mesh, placements, run_check=False).redistribute(
            placements=after
        )

    @staticmethod
    def backward(ctx: Any, d_whole: Tensor) -> tuple[Tensor | None, ...]:
        return _Part.apply(d_whole, ctx.of_gradient, ctx.placements), None, None, None, None
