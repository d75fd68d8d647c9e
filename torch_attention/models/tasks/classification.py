r"""Classification of a whole sequence or image, or of each token.

$$ \mathrm{logits} = W f(U \bar{x} + u) + b \qquad\text{or}\qquad \mathrm{logits}_i = W f(U x_i + u) + b $$

$\bar{x}$ is the pooled sequence. With `activation="tanh"` the hidden layer $f(U \bar{x} + u)$ is BERT's pooler and
RoBERTa's classification head; with `"relu"` it is DistilBERT's. ELECTRA has a hidden layer for tokens, too, which finds
replaced tokens; ModernBERT's has a norm. Without an activation there is no hidden layer, as in Llama and ViT,
unless `hidden_dim` is given, as in wav2vec 2.0.

| symbol    | argument or parameter                          |
|-----------|------------------------------------------------|
| $\bar{x}$ | `pooling` of the hidden states $x_i$           |
| U, u      | `hidden_proj`                                  |
| f         | `activation`                                   |
| W, b      | `classifier`                                   |
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from torch_attention.activations import activation_function
from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.models.tasks.pooling import FirstToken, pooled_dim
from torch_attention.models.tasks.results import LogitsOutput
from torch_attention.norms import normalise


@checked
class SequenceClassifier(nn.Module):
    """Class logits of a sequence or an image (Devlin et al. 2018; Dosovitskiy et al. 2020).

    Args:
        embed_dim: number of features per position.
        num_classes: number of classes; 1 for regression.
        pooling: `FirstToken()`, `LastToken()`, `MeanPooling()` or a `LearnedPooling`; None for the first token.
        hidden_dim: features of the hidden layer; None for `embed_dim` with an activation, else for no hidden layer.
        activation: activation of the hidden layer, such as `"tanh"`; None for none (wav2vec 2.0).
        hidden_bias: whether the hidden layer has a bias.
        hidden_norm: norm after the hidden layer, such as `norms.layer_norm(embed_dim)`; None for none.
        bias: whether the last linear layer has a bias.
        dropout: dropout rate of the features before the last linear layer in training.

    Raises:
        ValueError: `num_classes` is below 1, the activation is unknown, or the dropout rate is outside [0, 1).
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        pooling: nn.Module | None = None,
        hidden_dim: int | None = None,
        activation: str | None = None,
        hidden_bias: bool = True,
        hidden_norm: nn.Module | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.pooling: nn.Module = FirstToken() if pooling is None else pooling
        self.activation = None if activation is None else activation_function(activation)
        hidden_dim = embed_dim if hidden_dim is None and activation is not None else hidden_dim
        self.hidden_proj = (
            None if hidden_dim is None else linear(embed_dim, hidden_dim, bias=hidden_bias, **factory)
        )
        self.hidden_norm = hidden_norm
        self.dropout = Dropout(dropout)
        features = pooled_dim(self.pooling, embed_dim) if hidden_dim is None else hidden_dim
        self.classifier = linear(features, num_classes, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Shaped[Tensor, "..."] | None = None,
        *,
        dropout_keep: Bool[Tensor, "batch hidden"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Compute the class logits.

        Args:
            x: last hidden states of a model, `(batch, length, embed_dim)`.
            mask: boolean mask, True at real tokens, `(batch, length)`; None for no padding.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match.
        """
        check_sequence("x", x, self.embed_dim)
        pooled = self.pooling(x, mask)  # batch embed
        if self.hidden_proj is not None:
            pooled = self.hidden_proj(pooled)  # batch hidden
        if self.activation is not None:
            pooled = self.activation(pooled)  # batch hidden
        if self.hidden_norm is not None:
            pooled = normalise(self.hidden_norm, pooled)
        return self.classifier(self.dropout(pooled, dropout_keep))


@checked
class DistilledClassifier(nn.Module):
    """Class logits of an image: mean of two classifiers, of class and distillation token (Touvron et al. 2020, DeiT).

    Args:
        embed_dim: number of features per position.
        num_classes: number of classes.

    Raises:
        ValueError: `num_classes` is below 1.
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.classifier = linear(embed_dim, num_classes, **factory)
        self.distillation_classifier = linear(embed_dim, num_classes, **factory)

    def forward(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch classes"]:
        """Compute the class logits from the first two positions of the last hidden states `x`."""
        check_sequence("x", x, self.embed_dim)
        return (self.classifier(x[:, 0]) + self.distillation_classifier(x[:, 1])) / 2.0


@checked
class TokenClassifier(nn.Module):
    """Class logits of each token, such as for named entity recognition (Devlin et al. 2018; Clark et al. 2020).

    Args:
        embed_dim: number of features per position.
        num_classes: number of classes; 1 for one score per token.
        activation: activation of the hidden layer, such as `"gelu"`; None for no hidden layer.
        hidden_bias: whether the hidden layer has a bias.
        hidden_norm: norm after the hidden layer, such as `norms.layer_norm(embed_dim)`; None for none.
        bias: whether the last linear layer has a bias.
        dropout: dropout rate of the features before the last linear layer in training.

    Raises:
        ValueError: `num_classes` is below 1, the activation is unknown, or the dropout rate is outside [0, 1).
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        activation: str | None = None,
        hidden_bias: bool = True,
        hidden_norm: nn.Module | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.activation = None if activation is None else activation_function(activation)
        self.hidden_proj = (
            None if activation is None else linear(embed_dim, embed_dim, bias=hidden_bias, **factory)
        )
        self.hidden_norm = hidden_norm
        self.dropout = Dropout(dropout)
        self.classifier = linear(embed_dim, num_classes, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        *,
        dropout_keep: Bool[Tensor, "batch length embed"] | None = None,
    ) -> Float[Tensor, "batch length classes"]:
        """Compute the class logits at each position of the last hidden states `x`; `dropout_keep` as in `Dropout`."""
        check_sequence("x", x, self.embed_dim)
        if self.hidden_proj is not None and self.activation is not None:
            x = self.activation(self.hidden_proj(x))  # batch length embed
            x = x if self.hidden_norm is None else normalise(self.hidden_norm, x)
        return self.classifier(self.dropout(x, dropout_keep))
