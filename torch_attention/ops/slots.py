"""Arrays with slots: one for each token, of which only some are taken yet, or one for each sum."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def write_slots(
    x: Shaped[Tensor, "*batch slots dim"], new: Shaped[Tensor, "*batch new dim"], start: Int[Tensor, ""]
) -> Shaped[Tensor, "*batch slots dim"]:
    """`x` with `new` in the slots from `start` on; if that is beyond the end, in the last ones."""
    first = torch.clamp(start, max=x.shape[-2] - new.shape[-2])
    return torch.index_copy(x, -2, first + torch.arange(new.shape[-2], device=x.device), new)


def sum_by_slot(
    x: Float[Tensor, "... query key"], slot: Int[Tensor, "... query key"], count: int
) -> Float[Tensor, "... query slots"]:
    """The sum over the keys of each slot, for each query; `slot` is broadcast against `x`."""
    zeros = torch.zeros((*x.shape[:-1], count), dtype=x.dtype, device=x.device)
    return zeros.scatter_add(-1, torch.broadcast_to(slot, x.shape), x)
