"""Arrays with a slot for each token, of which only some are taken yet."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


def write_slots(
    x: Shaped[Tensor, "*batch slots dim"], new: Shaped[Tensor, "*batch new dim"], start: Int[Tensor, ""]
) -> Shaped[Tensor, "*batch slots dim"]:
    """`x` with `new` in the slots from `start` on; if that is beyond the end, in the last ones."""
    first = torch.clamp(start, max=x.shape[-2] - new.shape[-2])
    return torch.index_copy(x, -2, first + torch.arange(new.shape[-2], device=x.device), new)
