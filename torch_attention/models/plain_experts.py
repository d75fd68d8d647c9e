r"""A mixture of experts without gates, which may compute with fewer features (NVIDIA 2025, Nemotron-H).

$$ y = f_{\mathrm{shared}}(x) + U \sum_{e \in \mathrm{chosen}} g_e\, f_e(D x), \qquad f(x) = B\, \sigma(A x) $$

Differences from a `MixtureOfExperts`: the experts have no gates. With `latent_dim`, the experts read D x, a vector of
fewer features, and U maps the sum of their outputs back; the router and the shared expert read x.

| symbol                  | argument or parameter                         |
|-------------------------|-----------------------------------------------|
| D, U                    | `latent_down_proj`, `latent_up_proj`          |
| g                       | `routing`, from `router` and `router_bias`    |
| A, B                    | `up_proj`, `down_proj` of each of the `experts` |
| σ                       | `activation`                                  |
| $f_{\mathrm{shared}}$   | `shared`, with `shared_dim` hidden features   |
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.feed_forward import FeedForward
from torch_attention.layers import Factory, constant_parameter, linear, precise
from torch_attention.models.routing import SigmoidRouting
from torch_attention.ops import at_least_float32


@checked
class PlainMixtureOfExperts(nn.Module):
    """Mixture of experts without gates, and a shared expert (NVIDIA 2025, Nemotron-H).

    Every expert runs on every position; experts that were not chosen have the weight zero.

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features of each expert.
        num_experts: number of experts to choose from.
        routing: choice of the experts.
        shared_dim: hidden features of the shared expert.
        latent_dim: features of the experts' inputs and outputs; None for `embed_dim`, without projections.
        activation: activation of the experts, as in `FeedForward`.
        bias: whether the shared expert and the projections to and from the latent features have biases.

    Raises:
        ValueError: the routing does not fit the number of experts, or the activation is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        num_experts: int,
        routing: SigmoidRouting,
        *,
        shared_dim: int,
        latent_dim: int | None = None,
        activation: str = "relu_squared",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        routing.check(num_experts)
        factory = Factory(device=device, dtype=dtype)
        inner = embed_dim if latent_dim is None else latent_dim
        self.routing = routing
        self.router = linear(embed_dim, num_experts, bias=False, **factory)
        self.router_bias = constant_parameter(num_experts, value=0.0, **factory) if routing.biased else None
        self.latent_down_proj = (
            None if latent_dim is None else linear(embed_dim, latent_dim, bias=bias, **factory)
        )
        self.latent_up_proj = (
            None if latent_dim is None else linear(latent_dim, embed_dim, bias=bias, **factory)
        )
        self.experts = nn.ModuleList(
            [
                FeedForward(inner, ffn_dim, activation=activation, bias=False, **factory)
                for _ in range(num_experts)
            ]
        )
        self.shared = FeedForward(embed_dim, shared_dim, activation=activation, bias=bias, **factory)

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length embed"]:
        """Apply the chosen experts and the shared expert to each position."""
        shares = self.shares(x).to(x.dtype)  # batch length experts
        inner = x if self.latent_down_proj is None else self.latent_down_proj(x)  # batch length latent
        mixed = torch.zeros_like(inner)  # batch length latent
        for index, expert in enumerate(self.experts):
            mixed = mixed + shares[..., index, None] * expert(inner)  # batch length latent
        output = mixed if self.latent_up_proj is None else self.latent_up_proj(mixed)  # batch length embed
        return output + self.shared(x)

    @checked
    def shares(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        logits = at_least_float32(precise(self.router, x))  # batch length experts
        bias = None if self.router_bias is None else self.router_bias[...]  # experts
        return self.routing.shares(logits, bias)
