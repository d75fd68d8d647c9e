r"""Short convolution: a depthwise causal convolution over the last few tokens (Fu et al. 2022).

$$ y_t = \mathrm{SiLU}\!\left(\sum_{i=0}^{w-1} c_i \odot x_{t-w+1+i} + b\right) $$

Most recurrent layers apply this convolution between the projections and the recurrence, so that a key can depend on the
preceding tokens. The recurrent state includes the last w - 1 inputs.

| symbol | argument     |                                          |
|--------|--------------|------------------------------------------|
| c, b   | `conv`       | a depthwise convolution                  |
| w      | `conv_width` | kernel size, in tokens                   |
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import silu
from torch_attention.arguments import checked
from torch_attention.layers import convolve


class ConvolvedState(NamedTuple):
    """Recurrent state of a layer with a short convolution.

    Attributes:
        memory: state matrices, `(batch, heads, key_dim, value_dim)`, in at least float32.
        inputs: last inputs of the convolution, `(batch, conv_width - 1, features)`.
    """

    memory: Float[Tensor, "batch heads key_dim value_dim"]
    inputs: Float[Tensor, "batch last features"]


class InputsState(NamedTuple):
    """Recurrent state of a layer that is only a short convolution.

    Attributes:
        inputs: last inputs of the convolution, `(batch, conv_width - 1, features)`.
    """

    inputs: Float[Tensor, "batch last features"]


@checked
def short_convolution(
    layer: nn.Module,
    x: Float[Tensor, "batch length features"],
    state: ConvolvedState | None,
    conv_width: int,
) -> tuple[Float[Tensor, "batch length features"], Float[Tensor, "batch last features"]]:
    """Convolve `x`, preceded by the inputs of the state or zeros, and apply SiLU.

    Args:
        layer: convolution without padding.
        x: input sequence, `(batch, length, features)`.
        state: recurrent state of the earlier tokens; None for an empty one.
        conv_width: width of the short convolution, in tokens.

    Returns:
        Output `(batch, length, features)`, and the last inputs for the next state.
    """
    extended, length = extended_by(state, x, conv_width), x.shape[1]  # batch last+length features
    return silu(x if length == 0 else convolve(layer, extended)), extended[:, length:]


@checked
def extended_by(
    state: ConvolvedState | InputsState | None,
    x: Float[Tensor, "batch length features"],
    conv_width: int,
) -> Float[Tensor, "batch all features"]:
    """The inputs of a short convolution: `x`, preceded by the inputs of the state or zeros."""
    batch, _, features = x.shape
    zeros = torch.zeros((batch, conv_width - 1, features), dtype=x.dtype, device=x.device)
    before = zeros if state is None else state.inputs.to(x.dtype)  # batch last features
    return torch.concatenate([before, x], dim=1)  # batch last+length features


@checked
def visible_only(
    x: Float[Tensor, "batch length features"], mask: Bool[Tensor, "#batch 1 1 length"] | None
) -> Float[Tensor, "batch length features"]:
    """Replace masked tokens by zeros."""
    return x if mask is None else torch.where(mask[:, 0, 0, :, None], x, 0.0)


@checked
def cut(x: Float[Tensor, "batch length features"], *sizes: int) -> list[Tensor]:
    """Split the features into consecutive parts of the given sizes."""
    parts, start = [], 0
    for size in sizes:
        parts.append(x[..., start : start + size])
        start += size
    return parts


@checked
def scaled_parts(
    x: Float[Tensor, "batch length features"], sizes: tuple[int, ...], scales: tuple[float, ...]
) -> Float[Tensor, "batch length features"]:
    """Multiply consecutive parts of the features, of the given sizes, by one factor each."""
    scaled = [part * scale for part, scale in zip(cut(x, *sizes), scales, strict=True)]
    return torch.concatenate(scaled, dim=-1)
