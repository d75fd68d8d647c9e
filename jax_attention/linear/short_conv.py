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

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.activations import silu
from jax_attention.arguments import checked
from jax_attention.layers import convolve


class ConvolvedState(NamedTuple):
    """What a recurrent layer with a short convolution remembers of all it has read.

    Attributes:
        memory: `(batch, heads, key_dim, value_dim)`, in at least float32.
        inputs: `(batch, conv_width - 1, features)`, what the convolution was given last.
    """

    memory: Float[Array, "batch heads key_dim value_dim"]
    inputs: Float[Array, "batch last features"]


@checked
def short_convolution(
    layer: nnx.Module,
    x: Float[Array, "batch length features"],
    state: ConvolvedState | None,
    conv_width: int,
) -> tuple[Float[Array, "batch length features"], Float[Array, "batch last features"]]:
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
    zeros = jnp.zeros((batch, conv_width - 1, features), dtype=x.dtype)
    before = zeros if state is None else state.inputs.astype(x.dtype)  # batch last features
    extended = jnp.concatenate([before, x], axis=1)  # batch last+length features
    return silu(x if length == 0 else convolve(layer, extended)), extended[:, length:]


@checked
def visible_only(
    x: Float[Array, "batch length features"], mask: Bool[Array, "#batch 1 1 length"] | None
) -> Float[Array, "batch length features"]:
    """Zeros in place of the tokens that are masked."""
    return x if mask is None else jnp.where(mask[:, 0, 0, :, None], x, 0.0)


@checked
def cut(x: Float[Array, "batch length features"], *sizes: int) -> list[Array]:
    """Cut the features into runs of these sizes."""
    parts, start = [], 0
    for size in sizes:
        parts.append(x[..., start : start + size])
        start += size
    return parts
