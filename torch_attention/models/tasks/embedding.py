r"""Sequence embeddings, compared by their inner product (Reimers & Gurevych 2019).

$$ e = \frac{W \bar{x}}{\lVert W \bar{x} \rVert} $$

With normalisation the inner product of two embeddings is their cosine similarity.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, linear
from torch_attention.models.tasks.pooling import MeanPooling
from torch_attention.models.tasks.results import EmbeddingOutput
from torch_attention.ops import at_least_float32

# Lower bound of the norm that vectors are divided by, so that zeros stay zeros.
SHORTEST = 1e-12


@checked
class EmbeddingHead(nn.Module):
    """Sequence embedding: pooling, an optional linear layer and optional normalisation to unit length.

    Args:
        embed_dim: number of features per position.
        pooling: `FirstToken()`, `LastToken()`, `MeanPooling()` or a `LearnedPooling`; None for the mean.
        feature_dim: features of the embedding; None for `embed_dim` features without a linear layer.
        bias: whether the linear layer has a bias.
        normalised: whether embeddings are normalised to unit length.
    """

    returns: ClassVar = EmbeddingOutput

    def __init__(
        self,
        embed_dim: int,
        *,
        pooling: nn.Module | None = None,
        feature_dim: int | None = None,
        bias: bool = False,
        normalised: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.pooling: nn.Module = MeanPooling() if pooling is None else pooling
        self.feature_proj = (
            None if feature_dim is None else linear(embed_dim, feature_dim, bias=bias, **factory)
        )
        self.normalised = normalised

    def forward(
        self, x: Float[Tensor, "batch length embed"], mask: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch features"]:
        """Embed sequences from the last hidden states `x`; `mask` `(batch, length)` is True at real tokens."""
        check_sequence("x", x, self.embed_dim)
        pooled = self.pooling(x, mask)  # batch embed
        pooled = pooled if self.feature_proj is None else self.feature_proj(pooled)  # batch features
        return unit_length(pooled) if self.normalised else pooled


@checked
def unit_length(x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """Return x / max(‖x‖, 1e-12), computed in at least float32; zeros stay zeros."""
    wide = at_least_float32(x)  # *batch features
    square = (wide * wide).sum(-1)[..., None]  # *batch 1
    return (wide / torch.sqrt(torch.where(square > SHORTEST**2, square, SHORTEST**2))).to(x.dtype)
