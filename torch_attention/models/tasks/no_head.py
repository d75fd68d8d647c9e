"""A model without a head: its results are the last hidden states."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.outputs import HiddenOutput


def _result(
    last_hidden_state: Float[Tensor, "batch length embed"],
    attentions: tuple[Float[Tensor, "batch heads length length"], ...] | None,
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None,
) -> HiddenOutput:
    """Result of a model without a head, from its hidden states and attention weights."""
    return HiddenOutput(last_hidden_state, None, attentions, hidden_states)


@checked
class NoHead(nn.Module):
    """No head, for the body of a model whose checkpoint has none (Devlin et al. 2018).

    Args:
        embed_dim: number of features per position.
    """

    returns: ClassVar = staticmethod(_result)

    def __init__(
        self,
        embed_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.embed_dim = embed_dim

    def forward(self, x: Float[Tensor, "batch length embed"]) -> tuple[()]:
        """Check the last hidden states `x`, which need no head."""
        check_sequence("x", x, self.embed_dim)
        return ()
