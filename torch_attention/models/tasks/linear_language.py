r"""Language modelling head without a transform: one linear layer (Boizard et al. 2025, EuroBERT).

$$ \mathrm{logits} = x E^\top + c $$

Difference from a `MaskedLanguageHead`: there is neither a transform nor a norm.

| symbol | argument or parameter                          |
|--------|------------------------------------------------|
| E      | the embedding matrix if `tied`, else `decoder` |
| c      | `decoder_bias`, only with `bias`               |
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, constant_parameter, linear, similarities
from torch_attention.models.tasks.masked_language import check_table
from torch_attention.models.tasks.results import LogitsOutput


@checked
class LinearLanguageHead(nn.Module):
    """Token logits at each position, from the embedding matrix or one linear layer (Boizard et al. 2025).

    Args:
        embed_dim: number of features per position.
        vocab_size: number of tokens in the vocabulary.
        bias: whether the logits have a bias.
        tied: whether the layer shares the token embedding's weight (tied embeddings); False for a separate weight.
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        *,
        bias: bool = False,
        tied: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.vocab_size = vocab_size
        self.decoder = None if tied else linear(embed_dim, vocab_size, bias=False, **factory)
        self.decoder_bias = constant_parameter(vocab_size, value=0.0, **factory) if bias else None

    def forward(
        self, x: Float[Tensor, "batch length embed"], *, embedding: nn.Module | None = None
    ) -> Float[Tensor, "batch length vocab"]:
        """Compute the token logits at each position.

        Args:
            x: last hidden states of an encoder, `(batch, length, embed_dim)`.
            embedding: the encoder's token embedding, required if `tied`; None otherwise.

        Raises:
            ValueError: shapes do not match, or a tied head is given no embedding.
        """
        check_sequence("x", x, self.embed_dim)
        table: Any = embedding
        if self.decoder is None:
            check_table(table, self.vocab_size, self.embed_dim)
        scores = similarities(table, x) if self.decoder is None else self.decoder(x)  # batch length vocab
        return scores if self.decoder_bias is None else scores + self.decoder_bias[...]
