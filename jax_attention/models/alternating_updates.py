r"""Alternating updates of a residual stream in several parts (AltUp: Baykal et al. 2023).

$$ \hat{x}_i = x_i + \sum_j P_{ij}\, x_j, \qquad y = \mathrm{layer}(\hat{x}_a), \qquad
   x_i \leftarrow \hat{x}_i + (1 + c_i)(y - \hat{x}_a) $$

A layer computes only the active part $x_a$ of a residual stream of n parts; the others are predicted and corrected. As
in Gemma 3n (Google 2025), the coefficients depend on the position: with
$m(x) = \tanh(W\, \mathrm{norm}(x) / D)$ they are $P = A\, m(x_a)$ and $c = B\, m(y)$.

| symbol  | argument or parameter                       |
|---------|---------------------------------------------|
| n, a    | `num_streams`, `active`                     |
| W, norm | `router`, `router_norm`                     |
| A, B    | `prediction_proj`, `correction_proj`        |
| D       | `embed_dim`                                 |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.checks import check_at_least
from jax_attention.layers import Factory, constant_parameter, linear
from jax_attention.norms import normalise, rms_norm
from jax_attention.ops import at_least_float32


@checked
class AlternatingUpdates(nnx.Module):
    """Prediction and correction of the parts of a residual stream around a layer (Baykal et al. 2023).

    Args:
        embed_dim: features of each part.
        num_streams: number of parts.
        active: index of the part that the layer computes.
        scaled: whether the active part has a learned factor where the layer's sublayer of token vectors reads it.
        eps: constant added to the mean square in the norm.

    Raises:
        ValueError: `active` is not below `num_streams`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_streams: int,
        *,
        active: int = 0,
        scaled: bool = True,
        eps: float = 1e-6,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_at_least(active + 1, num_streams=num_streams)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_streams = num_streams
        self.active = active
        self.router_norm = rms_norm(embed_dim, eps=eps, **factory)
        self.router = linear(embed_dim, num_streams, bias=False, **factory)
        self.prediction_proj = linear(num_streams, num_streams**2, bias=False, **factory)
        self.correction_proj = linear(num_streams, num_streams, bias=False, **factory)
        self.stream_scale = constant_parameter(embed_dim, value=0.0, **factory) if scaled else None

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length streams"]:
        """Features of each position, between -1 and 1, on which the coefficients depend."""
        routed = self.router(normalise(self.router_norm, x) * self.embed_dim**-1.0)  # batch length streams
        return jnp.tanh(at_least_float32(routed)).astype(x.dtype)

    @checked
    def predict(
        self, streams: Float[Array, "batch length streams embed"]
    ) -> Float[Array, "batch length streams embed"]:
        """Predict all parts from all parts before the layer."""
        flat = self.prediction_proj(self(self.active_part(streams)))  # batch length streams·streams
        shape = (*flat.shape[:2], self.num_streams, self.num_streams)
        return streams + flat.reshape(shape) @ streams  # batch length streams embed

    @checked
    def correct(
        self,
        predicted: Float[Array, "batch length streams embed"],
        x: Float[Array, "batch length embed"],
    ) -> Float[Array, "batch length streams embed"]:
        """Correct all predicted parts by the layer's output `x`."""
        change = (x - self.active_part(predicted))[:, :, None]  # batch length 1 embed
        return predicted + (self.correction_proj(self(x)) + 1.0)[..., None] * change

    @checked
    def active_part(
        self, streams: Float[Array, "batch length streams embed"]
    ) -> Float[Array, "batch length embed"]:
        """The part that the layer computes."""
        return streams[:, :, self.active]

    @checked
    def scaled_part(
        self, streams: Float[Array, "batch length streams embed"]
    ) -> Float[Array, "batch length embed"]:
        """The part that the layer computes, times its learned factor."""
        x = self.active_part(streams)  # batch length embed
        return x if self.stream_scale is None else x * self.stream_scale[...].astype(x.dtype)

    @checked
    def add(
        self,
        streams: Float[Array, "batch length streams embed"],
        x: Float[Array, "batch length embed"],
    ) -> Float[Array, "batch length streams embed"]:
        """Add `x` to all parts but the first one."""
        return jnp.concatenate([streams[:, :, :1], streams[:, :, 1:] + x[:, :, None]], axis=2)
