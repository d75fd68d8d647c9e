r"""Extractive question answering: scores of each token as the start and the end of the answer.

$$ (s_i, e_i) = W x_i + b $$
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, linear
from torch_attention.models.tasks.results import SpanOutput


@checked
class QuestionAnswering(nn.Module):
    """Start and end scores of each token for an answer span (Devlin et al. 2018, section 4.2).

    Args:
        embed_dim: number of features per position.
        bias: whether the linear layer has a bias.
    """

    returns: ClassVar = SpanOutput

    def __init__(
        self,
        embed_dim: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.span_proj = linear(embed_dim, 2, bias=bias, **factory)

    def forward(
        self, x: Float[Tensor, "batch length embed"]
    ) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
        """Compute start and end scores at each position of the last hidden states `x`."""
        check_sequence("x", x, self.embed_dim)
        scores = self.span_proj(x)  # batch length 2
        return scores[..., 0], scores[..., 1]
