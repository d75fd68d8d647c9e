r"""Reward head: one number per text, such as the preference for an answer (Ouyang et al. 2022).

$$ r = w^\top \bar{x} $$
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, linear
from torch_attention.models.tasks.pooling import LastToken
from torch_attention.models.tasks.results import RewardOutput


@checked
class RewardHead(nn.Module):
    """Reward of each sequence, from its pooled hidden state, by default the last real token (Ouyang et al. 2022).

    Args:
        embed_dim: number of features per position.
        pooling: `FirstToken()`, `LastToken()`, `MeanPooling()` or a `LearnedPooling`; None for the last token.
        bias: whether the linear layer has a bias.
    """

    returns: ClassVar = RewardOutput

    def __init__(
        self,
        embed_dim: int,
        *,
        pooling: nn.Module | None = None,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.pooling: nn.Module = LastToken() if pooling is None else pooling
        self.reward_proj = linear(embed_dim, 1, bias=bias, **factory)

    def forward(
        self, x: Float[Tensor, "batch length embed"], mask: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, " batch"]:
        """Compute rewards from the last hidden states `x`; `mask` `(batch, length)` is True at real tokens."""
        check_sequence("x", x, self.embed_dim)
        return self.reward_proj(self.pooling(x, mask))[:, 0]
