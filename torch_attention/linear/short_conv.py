r"""Short convolution: each feature of a token is mixed with itself in the few tokens before (Fu et al. 2022).

$$ y_t = \mathrm{SiLU}\!\left(\sum_{i=0}^{w-1} c_i \odot x_{t-w+1+i} + b\right) $$

It stands between the projections and the memory of most recurrent layers, so that what is stored under a key can
depend on the word before. Going on from a state needs the last w - 1 inputs.

| symbol | argument     |                                          |
|--------|--------------|------------------------------------------|
| c, b   | `conv`       | a convolution with one group a feature   |
| w      | `conv_width` | how many tokens it sees, its own included |
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import silu
from torch_attention.arguments import checked
from torch_attention.layers import convolve


class ConvolvedState(NamedTuple):
    """What a recurrent layer with a short convolution remembers of all it has read.

    Attributes:
        memory: `(batch, heads, key_dim, value_dim)`, in at least float32.
        inputs: `(batch, conv_width - 1, features)`, what the convolution was given last.
    """

    memory: Float[Tensor, "batch heads key_dim value_dim"]
    inputs: Float[Tensor, "batch last features"]


@checked
def short_convolution(
    layer: nn.Module,
    x: Float[Tensor, "batch length features"],
    state: ConvolvedState | None,
    conv_width: int,
) -> tuple[Float[Tensor, "batch length features"], Float[Tensor, "batch last features"]]:
    """Convolve `x`, after the last inputs of the state or zeros, and apply SiLU.

    Args:
        layer: the convolution, without padding.
        x: input sequence, `(batch, length, embed_dim)`.
        state: last inputs of the tokens before; None for zeros.
        conv_width: how many tokens the convolution sees.

    Returns:
        The result, as long as `x`, and the last inputs for the next state.
    """
    batch, length, features = x.shape
    zeros = torch.zeros((batch, conv_width - 1, features), dtype=x.dtype, device=x.device)
    before = zeros if state is None else state.inputs.to(x.dtype)  # batch last features
    extended = torch.concatenate([before, x], dim=1)  # batch last+length features
    return silu(x if length == 0 else convolve(layer, extended)), extended[:, length:]


@checked
def visible_only(
    x: Float[Tensor, "batch length features"], mask: Bool[Tensor, "#batch 1 1 length"] | None
) -> Float[Tensor, "batch length features"]:
    """Zeros in place of the tokens that are masked."""
    return x if mask is None else torch.where(mask[:, 0, 0, :, None], x, 0.0)


@checked
def cut(x: Float[Tensor, "batch length features"], *sizes: int) -> list[Tensor]:
    """Cut the features into runs of these sizes."""
    parts, start = [], 0
    for size in sizes:
        parts.append(x[..., start : start + size])
        start += size
    return parts
