r"""A residual stream in several parts, from the embeddings to the last hidden states (Gemma 3n, Google 2025).

$$ x_1 = e, \quad x_i = \frac{\mathrm{rms}(e)}{\mathrm{rms}(S_i e)} S_i e, \qquad
   y = \frac{1}{n} \Big(x_1 + \sum_{i > 1} \frac{\mathrm{rms}(x_1)}{\mathrm{rms}(M_i x_i)} M_i x_i\Big) $$

The layers between compute x with `AlternatingUpdates`.

| symbol | argument or parameter |
|--------|-----------------------|
| n      | `num_streams`         |
| S, M   | `split`, `merge`      |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.layers import Factory, linear
from jax_attention.roots import root_mean_square


@checked
class RescaledProjection(nnx.Module):
    """Linear map of each position, scaled to a given root mean square (Gemma 3n, 2025).

    Args:
        embed_dim: features of input and output.
        least_square: least mean square of the projected features by which they are divided.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        least_square: float = 1e-5,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.least_square = least_square
        self.proj = linear(embed_dim, embed_dim, bias=False, **factory)

    def __call__(
        self, x: Float[Array, "batch length embed"], size: Float[Array, "batch length one"]
    ) -> Float[Array, "batch length embed"]:
        """Project `x` and scale the result to the root mean square `size`, `(batch, length, 1)`."""
        projected = self.proj(x)  # batch length embed
        own = jnp.clip(root_mean_square(projected), min=self.least_square**0.5)  # batch length 1
        return (projected * (size / own)).astype(x.dtype)


@checked
class ResidualStreams(nnx.Module):
    """The parts of a residual stream: made from the embeddings, and joined after the last layer (Gemma 3n, 2025).

    Args:
        embed_dim: features of each part.
        num_streams: number of parts.
    """

    def __init__(
        self,
        embed_dim: int,
        num_streams: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.num_streams = num_streams
        self.split = nnx.List([RescaledProjection(embed_dim, **factory) for _ in range(num_streams - 1)])
        self.merge = nnx.List([RescaledProjection(embed_dim, **factory) for _ in range(num_streams - 1)])

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length streams embed"]:
        """Make the parts from the embeddings `x`."""
        size = root_mean_square(x)  # batch length 1
        return jnp.stack([x, *(each(x, size) for each in self.split)], axis=2)

    @checked
    def join(self, streams: Float[Array, "batch length streams embed"]) -> Float[Array, "batch length embed"]:
        """Join the parts after the last layer: the mean of all parts, projected to the size of the first one."""
        size = root_mean_square(streams[:, :, 0])  # batch length 1
        others = [each(streams[:, :, n + 1], size) for n, each in enumerate(self.merge)]
        return jnp.stack([streams[:, :, 0], *others], axis=2).mean(axis=2)
