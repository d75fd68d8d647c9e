r"""Convolutional positional embedding, as in wav2vec 2.0 (Baevski et al. 2020, section 2; Mohamed et al. 2019).

$$ y = x + \mathrm{gelu}(C * x + b), \qquad C_k = g_k\, V_k / \lVert V_k \rVert $$

A convolution sees the neighbours of each frame, and so its position among them. Its kernel is stored with
weight normalisation (Salimans & Kingma 2016): per tap k a length and a direction.

| symbol | argument or parameter                              |
|--------|----------------------------------------------------|
| V      | `direction`, `(embed, embed / num_groups, kernel)` |
| g      | `length`, one number per tap                       |
| b      | `bias`                                             |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.activations import activation_function
from jax_attention.arguments import checked
from jax_attention.checks import check_divisible, check_sequence
from jax_attention.layers import Factory, constant_parameter, convolve_with, parameter


@checked
class ConvolutionalEmbedding(nnx.Module):
    """Positional embedding by a grouped convolution with a weight-normalised kernel (Baevski et al. 2020).

    Args:
        embed_dim: features of the sequence.
        kernel_size: number of frames that the convolution sees, the frame itself in their middle; the middle of an even
            number is the right one of two.
        num_groups: number of groups of features that the convolution keeps apart; must divide `embed_dim`.
        activation: activation of the convolution's output, as in `FeedForward`.

    Raises:
        ValueError: `num_groups` does not divide `embed_dim`, or the activation is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        kernel_size: int,
        num_groups: int = 1,
        *,
        activation: str = "gelu",
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        check_divisible(embed_dim=embed_dim, num_groups=num_groups)
        self.embed_dim = embed_dim
        self.kernel_size = kernel_size
        self.num_groups = num_groups
        self.activation = activation_function(activation)
        self.direction = parameter(embed_dim, embed_dim // num_groups, kernel_size, **factory)
        self.length = constant_parameter(kernel_size, value=1.0, **factory)
        self.bias = constant_parameter(embed_dim, value=0.0, **factory)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Add the positional embedding to `x`, which must be zero at padding."""
        check_sequence("x", x, self.embed_dim)
        direction = self.direction[...]  # embed group_embed kernel
        norm = jnp.sqrt((direction * direction).sum(axis=(0, 1)))  # kernel
        kernel = direction * (self.length[...] / norm)  # embed group_embed kernel
        padding = self.kernel_size // 2
        added = convolve_with(kernel, self.bias[...], x, padding=padding, groups=self.num_groups)
        return x + self.activation(added[:, : x.shape[1]])  # batch length embed
