"""Collectives along the mesh axis that shards the sequence; every device of that axis calls each function."""

from typing import Any

import torch
from torch import Tensor

from torch_attention.ops.distributed.shards import Shards


def device_count(shards: Shards) -> int:
    """Number of devices along the sequence axis."""
    return shards.mesh.size(shards.sequence)


def own_number(shards: Shards) -> Any:
    """Index of this device along the sequence axis, from 0."""
    return shards.mesh.get_local_rank(shards.sequence)


def pass_on(held: tuple[Tensor, ...], shards: Shards) -> tuple[Tensor, ...]:
    """Send arrays to the next device of the ring, and return the arrays of the previous one."""
    return _Passed.apply(shards, 1, *held) if torch.is_grad_enabled() else _sent(held, shards, 1)


def exchange(x: Tensor, shards: Shards, *, parted: int, joined: int) -> Tensor:
    """All-to-all: split axis `parted` over the devices and concatenate along axis `joined`; both are negative."""
    return _Exchanged.apply(x, shards, parted, joined)


class _Passed(torch.autograd.Function):
    """Ring shift by `steps` devices, whose gradient is the opposite shift; PyTorch's collective has no gradient."""

    @staticmethod
    def forward(ctx: Any, shards: Shards, steps: int, *held: Tensor) -> tuple[Tensor, ...]:
        ctx.shards, ctx.steps = shards, steps
        return _sent(held, shards, steps)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_Passed.apply(ctx.shards, -ctx.steps, *given)


def _sent(held: tuple[Tensor, ...], shards: Shards, steps: int) -> tuple[Tensor, ...]:
    """Arrays of the device `steps` positions earlier in the ring."""
    from torch.distributed._functional_collectives import permute_tensor, wait_tensor

    count, group = device_count(shards), shards.mesh.get_group(shards.sequence)
    after = [(i + steps) % count for i in range(count)]
    sent = [permute_tensor(x.flatten(), after, group) for x in held]  # all transfers run at once
    return tuple(wait_tensor(taken).view(x.shape) for x, taken in zip(held, sent, strict=True))


class _Exchanged(torch.autograd.Function):
    """All-to-all whose gradient is the inverse all-to-all; PyTorch's own is differentiable only once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shards: Shards, parted: int, joined: int) -> Tensor:
        from torch.distributed._functional_collectives import all_to_all_single, wait_tensor

        ctx.shards, ctx.parted, ctx.joined = shards, parted, joined
        group = shards.mesh.get_group(shards.sequence)
        given = torch.stack(x.chunk(device_count(shards), dim=parted))  # devices ...
        taken = wait_tensor(all_to_all_single(given, None, None, group))  # devices ...
        return torch.concatenate(list(taken.unbind()), dim=joined)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        return _Exchanged.apply(given, ctx.shards, ctx.joined, ctx.parted), None, None, None


def part_of(x: Tensor | None, number: Any, shards: Shards, *, axis: int) -> Tensor | None:
    """Slice one device's part of an unsharded axis; an axis of size 1 is shared by all devices."""
    if x is None or x.shape[axis] == 1:
        return x
    size = x.shape[axis] // device_count(shards)
    return x.narrow(axis, number * size, size)
