r"""Feed-forward network with the activation xIELU, whose slopes are learned (Huang & Schlag 2024).

$$ y = B\, f(A x), \qquad f(x) = \beta x + \begin{cases} \alpha_p\, x^2 & x > 0 \\
     \alpha_n (e^{\min(x, \varepsilon)} - 1 - x) & x \le 0 \end{cases}, \qquad
   \alpha_p = \mathrm{softplus}(a_p), \quad \alpha_n = \beta + \mathrm{softplus}(a_n) $$

| symbol                   | argument or parameter                  |
|--------------------------|----------------------------------------|
| A, B                     | `up_proj`, `down_proj`                 |
| $a_p$, $a_n$             | `alpha_p`, `alpha_n`                   |
| $\beta$, $\varepsilon$ | `beta` and `epsilon`, which are not learned |
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.activations import softplus
from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, constant_buffer, constant_parameter, linear
from torch_attention.ops import at_least_float32


@checked
class XIELUFeedForward(nn.Module):
    """Feed-forward network down(f(up(x))) with the learned activation xIELU (Huang & Schlag 2024; Apertus, 2025).

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        bias: whether the two projections have biases.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.alpha_p = constant_parameter(1, value=0.2033, **factory)  # softplus gives 0.8
        self.alpha_n = constant_parameter(1, value=-1.0502, **factory)  # softplus gives 0.3
        self.beta = constant_buffer(value=0.5, **factory)
        self.epsilon = constant_buffer(value=-1e-6, **factory)

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length embed"]:
        """Apply the network to each position of `x`, `(batch, length, embed_dim)`."""
        check_sequence("x", x, self.embed_dim)
        wide = at_least_float32(self.up_proj(x))  # batch length ffn
        beta, least = self.beta[...].to(wide.dtype), self.epsilon[...].to(wide.dtype)
        positive = softplus(self.alpha_p[...].to(wide.dtype))  # 1
        negative = beta + softplus(self.alpha_n[...].to(wide.dtype))  # 1
        above = positive * wide * wide  # batch length ffn
        below = negative * (torch.expm1(torch.minimum(wide, least)) - wide)  # batch length ffn
        hidden = torch.where(wide > 0, above, below) + beta * wide  # batch length ffn
        return self.down_proj(hidden.to(x.dtype))  # batch length embed
