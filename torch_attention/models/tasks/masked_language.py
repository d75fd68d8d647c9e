r"""Masked language modelling head (Devlin et al. 2018).

$$ h = \mathrm{norm}(f(U x + u)), \qquad \mathrm{logits} = h\, E^\top + c $$

| symbol | argument or parameter                                             |
|--------|-------------------------------------------------------------------|
| U, u   | `transform`                                                       |
| f      | `activation`                                                      |
| E      | the embedding matrix if `tied`, else `decoder`                    |
| c      | `decoder_bias`, one number per token of the vocabulary            |
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.activations import activation_function
from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, constant_parameter, linear, similarities
from torch_attention.models.module_classes import table_shape
from torch_attention.models.tasks.results import LogitsOutput
from torch_attention.norms import layer_norm, normalise


@checked
class MaskedLanguageHead(nn.Module):
    """Token logits at each position, from a transform and the embedding matrix (Devlin et al. 2018).

    Args:
        embed_dim: number of features per position.
        vocab_size: number of tokens in the vocabulary.
        token_dim: features of the token embedding, where they are fewer (ALBERT); None for `embed_dim`.
        activation: activation of the transform.
        norm_eps: epsilon added to the variance in the normalisation.
        bias: whether the transform and the norm have biases.
        tied: whether the output layer shares the token embedding's weight (tied embeddings); False for a separate
            weight.

    Raises:
        ValueError: the activation is unknown.
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        *,
        token_dim: int | None = None,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        bias: bool = True,
        tied: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        token_dim = embed_dim if token_dim is None else token_dim
        self.embed_dim = embed_dim
        self.vocab_size = vocab_size
        self.token_dim = token_dim
        self.transform = linear(embed_dim, token_dim, bias=bias, **factory)
        self.activation = activation_function(activation)
        self.norm = layer_norm(token_dim, eps=norm_eps, bias=bias, **factory)
        self.decoder = None if tied else linear(token_dim, vocab_size, bias=False, **factory)
        self.decoder_bias = constant_parameter(vocab_size, value=0.0, **factory)

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
            check_table(table, self.vocab_size, self.token_dim)
        h = normalise(self.norm, self.activation(self.transform(x)))  # batch length token_dim
        scores = similarities(table, h) if self.decoder is None else self.decoder(h)
        return scores + self.decoder_bias[...]


def check_table(table: Any, vocab_size: int, token_dim: int) -> None:
    """Raise ValueError unless the embedding has the shape `(vocab_size, token_dim)` of a tied head."""
    if table is None:
        raise ValueError("embedding must be the model's token embedding for a tied head, got None")
    found, needed = table_shape(table), (vocab_size, token_dim)
    if found != needed:
        raise ValueError(
            "a tied head must have the vocab_size and token_dim of the model's token embedding, "
            f"{found[0]} and {found[1]}, got {needed[0]} and {needed[1]}"
        )
