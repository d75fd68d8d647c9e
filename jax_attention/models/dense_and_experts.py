r"""A dense feed-forward network beside a mixture of experts, each between two norms of its own (Gemma 4, Google 2026).

$$ y = \mathrm{norm}_2(f(\mathrm{norm}_1(x)))
     + \mathrm{norm}_4\!\Big(\sum_{e \in \mathrm{chosen}} g_e\, f_e(\mathrm{norm}_3(x))\Big), \qquad
   l = W \left(s \odot \frac{x}{\mathrm{rms}(x) \sqrt{D}}\right), \quad
   g_e = t_e \frac{\exp l_e}{\sum_{\mathrm{chosen}} \exp l} $$

Difference from a `MixtureOfExperts`: the router reads the sequence before the norm, and the two networks have norms.

| symbol         | argument or parameter                                   |
|----------------|---------------------------------------------------------|
| f              | `dense`, with `dense_dim` hidden features               |
| $f_e$          | `experts`                                               |
| norms 1 to 4   | `dense_norm`, `dense_output_norm`, `experts_norm`, `experts_output_norm` |
| W, s, t        | `proj`, `input_scale` and `expert_scale` of `router`    |
| D              | `embed_dim`                                             |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.feed_forward import GatedFeedForward
from jax_attention.layers import Factory, constant_parameter, linear, precise
from jax_attention.models.routing import SoftmaxRouting
from jax_attention.norms import normalise, rms_norm, unit_rms
from jax_attention.ops import at_least_float32


@checked
class ScaledRouter(nnx.Module):
    """Router of normalised inputs with learned scales of the inputs and of the experts (Gemma 4, 2026).

    Args:
        embed_dim: features of the input.
        num_experts: number of experts to choose from.
        num_chosen: number of experts per position.
        eps: constant added to the mean square in the norm.

    Raises:
        ValueError: `num_chosen` is above `num_experts`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_experts: int,
        num_chosen: int,
        *,
        eps: float = 1e-6,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.routing = SoftmaxRouting(num_chosen)
        self.routing.check(num_experts)
        self.embed_dim = embed_dim
        self.eps = eps
        self.proj = linear(embed_dim, num_experts, bias=False, **factory)
        self.input_scale = constant_parameter(embed_dim, value=1.0, **factory)
        self.expert_scale = constant_parameter(num_experts, value=1.0, **factory)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        scale = self.input_scale[...] * self.embed_dim**-0.5  # embed
        normed = unit_rms(x, eps=self.eps) * scale.astype(x.dtype)  # batch length embed
        logits = at_least_float32(precise(self.proj, normed))  # batch length experts
        return self.routing.shares(logits) * self.expert_scale[...].astype(logits.dtype)


@checked
class DenseAndExperts(nnx.Module):
    """Sum of a dense feed-forward network and a mixture of experts, each between two norms (Gemma 4, 2026).

    Every expert runs on every position; experts that were not chosen have the weight zero.

    Args:
        embed_dim: features of input and output.
        dense_dim: hidden features of the dense network.
        ffn_dim: hidden features of each expert.
        num_experts: number of experts to choose from.
        num_chosen: number of experts per position.
        activation: activation of the gates, as in `GatedFeedForward`.
        eps: constant added to the mean square in each norm.

    Raises:
        ValueError: `num_chosen` is above `num_experts`, or the activation is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        dense_dim: int,
        ffn_dim: int,
        num_experts: int,
        num_chosen: int,
        *,
        activation: str = "gelu_tanh",
        eps: float = 1e-6,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.dense_norm = rms_norm(embed_dim, eps=eps, **factory)
        self.dense = GatedFeedForward(embed_dim, dense_dim, activation=activation, **factory)
        self.dense_output_norm = rms_norm(embed_dim, eps=eps, **factory)
        self.router = ScaledRouter(embed_dim, num_experts, num_chosen, eps=eps, **factory)
        self.experts_norm = rms_norm(embed_dim, eps=eps, **factory)
        self.experts = nnx.List(
            [
                GatedFeedForward(embed_dim, ffn_dim, activation=activation, **factory)
                for _ in range(num_experts)
            ]
        )
        self.experts_output_norm = rms_norm(embed_dim, eps=eps, **factory)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Apply both networks to each position of `x`, `(batch, length, embed_dim)`, which is not normalised."""
        dense = self.dense(normalise(self.dense_norm, x))  # batch length embed
        shares = self.router(x).astype(x.dtype)  # batch length experts
        normed = normalise(self.experts_norm, x)  # batch length embed
        mixed = jnp.zeros_like(x)  # batch length embed
        for index, expert in enumerate(self.experts):
            mixed = mixed + shares[..., index, None] * expert(normed)  # batch length embed
        return normalise(self.dense_output_norm, dense) + normalise(self.experts_output_norm, mixed)
