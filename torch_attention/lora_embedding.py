r"""LoRA of an embedding: low-rank adaptation of its vectors (Hu et al. 2021).

$$ y_t = E_t + s\, A_{:,t}^\top B^\top, \qquad s = \alpha / r $$

| symbol | argument or parameter                                                                  |
|--------|----------------------------------------------------------------------------------------|
| E      | the vectors of the base, which are not trained                                         |
| A      | `lora_embedding_A`, (rank, tokens), zeros at first, so that the outputs are the base's |
| B      | `lora_embedding_B`, (dim, rank), random at first                                       |
| r      | `rank`                                                                                 |
| α      | `alpha`                                                                                |
| s      | `lora_scale`; with `use_rslora` it is α / √r (Kalajdzievski 2023)                      |
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked


@checked
class LoRAEmbedding(nn.Embedding):
    """Embedding with a low-rank update beside it; only the update is trained (Hu et al. 2021).

    The update is computed in at least float32, and the output has the dtype of the base. An output layer that is tied
    to the embedding uses the vectors of the base alone, as in PEFT.

    Args:
        base: embedding to adapt, whose vectors are kept as they are.
        rank: rank r of the update.
        alpha: numerator α of the scale.
        use_rslora: whether the scale is α / √r instead of α / r.

    Raises:
        TypeError: `base` is not an embedding.
        ValueError: `rank` is below 1.
    """

    def __init__(self, base: nn.Module, rank: int, *, alpha: float, use_rslora: bool = False):
        if not isinstance(base, nn.Embedding):
            raise TypeError(f"base must be an embedding, got {type(base).__name__}")
        weight = base.weight
        count, dim = weight.shape
        super().__init__(count, dim, device="meta", dtype=weight.dtype)
        self.weight = weight.requires_grad_(False)
        self.rank, self.alpha, self.use_rslora = rank, alpha, use_rslora
        self.lora_scale = alpha / (math.sqrt(rank) if use_rslora else rank)
        dtype, device = torch.promote_types(weight.dtype, torch.float32), weight.device
        self.lora_embedding_A = nn.Parameter(torch.zeros(rank, count, dtype=dtype, device=device))
        self.lora_embedding_B = nn.Parameter(torch.randn(dim, rank, dtype=dtype, device=device))

    def forward(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Look up the vectors of tokens, with their updates."""
        output = super().forward(tokens)  # *batch dim
        rows = F.embedding(tokens, self.lora_embedding_A.mT)  # *batch rank
        update = F.linear(rows, self.lora_embedding_B) * self.lora_scale  # *batch dim
        return (output + update).to(output.dtype)

    def delta(self) -> Float[Tensor, "tokens dim"]:
        """Update of the vectors, s (B A)ᵀ."""
        return (self.lora_embedding_B @ self.lora_embedding_A).mT * self.lora_scale

    def merged(self) -> nn.Embedding:
        """Embedding with the update added to its vectors, which PEFT rounds to their dtype before."""
        count, dim = self.weight.shape
        plain = nn.Embedding(count, dim, device="meta", dtype=self.weight.dtype)
        with torch.no_grad():
            self.weight += self.delta().to(self.weight.dtype)
        plain.weight = self.weight
        return plain
