r"""Classification of a whole sequence or image, or of each token.

$$ \mathrm{logits} = W f(U \bar{x} + u) + b \qquad\text{or}\qquad \mathrm{logits}_i = W x_i + b $$

$\bar{x}$ is the pooled sequence. With `activation="tanh"` the hidden layer $f(U \bar{x} + u)$ is BERT's pooler and
RoBERTa's classification head; with `"relu"` it is DistilBERT's. Without an activation there is no hidden layer, as in
Llama and ViT.

| symbol    | argument or parameter                          |
|-----------|------------------------------------------------|
| $\bar{x}$ | `pooling` of the hidden states                 |
| U, u      | `hidden_proj`, only with an activation         |
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


@checked
class SequenceClassifier(nn.Module):
    """Class logits of a sequence or an image (Devlin et al. 2018; Dosovitskiy et al. 2020).

    Args:
        embed_dim: number of features per position.
        num_classes: number of classes; 1 for regression.
        pooling: `FirstToken()`, `LastToken()`, `MeanPooling()` or a `LearnedPooling`; None for the first token.
        activation: activation of the hidden layer, such as `"tanh"`, of a pooling of one vector; None for no hidden
            layer.
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
        activation: str | None = None,
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
        self.hidden_proj = None if activation is None else linear(embed_dim, embed_dim, **factory)
        self.dropout = Dropout(dropout)
        features = pooled_dim(self.pooling, embed_dim)
        self.classifier = linear(features, num_classes, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Shaped[Tensor, "..."] | None = None,
        *,
        dropout_keep: Bool[Tensor, "batch embed"] | None = None,
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
        if self.hidden_proj is not None and self.activation is not None:
            pooled = self.activation(self.hidden_proj(pooled))  # batch embed
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
    """Class logits of each token, such as for named entity recognition (Devlin et al. 2018).

    Args:
        embed_dim: number of features per position.
        num_classes: number of classes.
        bias: whether the linear layer has a bias.
        dropout: dropout rate of the features before the linear layer in training.

    Raises:
        ValueError: `num_classes` is below 1, or the dropout rate is outside [0, 1).
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
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
        return self.classifier(self.dropout(x, dropout_keep))
