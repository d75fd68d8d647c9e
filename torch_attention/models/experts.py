r"""A mixture of experts: each position uses a few of many feed-forward networks (Shazeer et al. 2017).

$$ y = \sum_{e \in \mathrm{chosen}} g_e\, f_e(x) + \sigma(w^\top x)\, f_{\mathrm{shared}}(x), \qquad l = W x $$

| symbol                  | argument or parameter                                                              |
|-------------------------|------------------------------------------------------------------------------------|
| W                       | `router`                                                                           |
| g, from l               | `routing`; biased ones add `router_bias` to the scores to choose experts           |
| $f_{\mathrm{shared}}$   | the shared expert, with `shared_dim`, which every position uses                    |
| w                       | `shared_gate` (Qwen MoE); without it the factor is 1                               |
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.feed_forward import ClampedFeedForward, GatedFeedForward
from torch_attention.layers import Factory, constant_parameter, linear, precise
from torch_attention.models.routing import SigmoidRouting, SoftmaxRouting, SparseMixerRouting
from torch_attention.ops import at_least_float32


@checked
class MixtureOfExperts(nn.Module):
    """Mixture of experts with an optional shared expert (DeepSeek-AI 2024).

    Every expert runs on every position; experts that were not chosen have the weight zero. This is simple and compiles
    everywhere, but models with hundreds of experts need a sparse implementation.

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features of each expert.
        num_experts: number of experts to choose from.
        routing: choice of the experts: `SigmoidRouting`, `SoftmaxRouting` or `SparseMixerRouting`.
        shared_dim: hidden features of the shared expert; None for no shared expert.
        shared_gate: whether the output of the shared expert is multiplied by a gate, one number per position (Qwen
            MoE).
        bias: whether the router and the experts' linear layers have biases (gpt-oss).
        activation: activation of the experts, as in `GatedFeedForward`.
        limit: clamping limit of gates and values, as in `ClampedFeedForward` (gpt-oss); None for no limit.
        scales_input: whether the weights multiply the inputs of the experts instead of their outputs (Llama 4).

    Raises:
        ValueError: the routing does not fit the number of experts, a gate is given without a shared expert, inputs of
            experts with biases are scaled, or the activation is unknown.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        num_experts: int,
        routing: SigmoidRouting | SoftmaxRouting | SparseMixerRouting,
        *,
        shared_dim: int | None = None,
        shared_gate: bool = False,
        bias: bool = False,
        activation: str = "silu",
        limit: float | None = None,
        scales_input: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        routing.check(num_experts)
        if shared_gate and shared_dim is None:
            raise ValueError("shared_gate needs a network that it gates, got shared_dim=None")
        if scales_input and (bias or limit is not None):
            raise ValueError("scales_input needs experts that map zeros to zeros, got bias or limit")
        factory = Factory(device=device, dtype=dtype)
        self.routing = routing
        self.scales_input = scales_input
        self.router = linear(embed_dim, num_experts, bias=bias, **factory)
        self.router_bias = constant_parameter(num_experts, value=0.0, **factory) if routing.biased else None
        self.experts = nn.ModuleList(
            [
                GatedFeedForward(embed_dim, ffn_dim, activation=activation, bias=bias, **factory)
                if limit is None
                else ClampedFeedForward(embed_dim, ffn_dim, limit=limit, bias=bias, **factory)
                for _ in range(num_experts)
            ]
        )
        self.shared = (
            None
            if shared_dim is None
            else GatedFeedForward(embed_dim, shared_dim, activation=activation, **factory)
        )
        self.shared_gate = linear(embed_dim, 1, bias=False, **factory) if shared_gate else None

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length embed"]:
        """Apply the chosen experts and the shared expert to each position."""
        shares = self.shares(x).to(x.dtype)  # batch length experts
        output = torch.zeros_like(x) if self.shared is None else self.shared(x)  # batch length embed
        if self.shared_gate is not None:
            output = output * torch.sigmoid(self.shared_gate(x))  # batch length embed
        for index, expert in enumerate(self.experts):
            share = shares[..., index, None]  # batch length 1
            one = expert(share * x) if self.scales_input else share * expert(x)  # batch length embed
            output = output + one  # batch length embed
        return output

    @checked
    def shares(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        logits = at_least_float32(precise(self.router, x))  # batch length experts
        bias: Any = None if self.router_bias is None else self.router_bias[...]  # experts
        return self.routing.shares(logits, bias)
