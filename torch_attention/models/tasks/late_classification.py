r"""Classification of a sequence by the mean of its tokens' class logits (Boizard et al. 2025, EuroBERT).

$$ \mathrm{logits} = \frac{1}{n} \sum_{i=1}^{n} \left(W f(U x_i + u) + b\right) $$

Difference from a `SequenceClassifier` with `MeanPooling`: the mean comes after the hidden layer, not before it.
Positions 1 to n are the real tokens.

| symbol | argument or parameter |
|--------|-----------------------|
| U, u   | `hidden_proj`         |
| f      | `activation`          |
| W, b   | `classifier`          |
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from torch_attention.activations import activation_function
from torch_attention.arguments import checked
from torch_attention.checks import check_sequence
from torch_attention.layers import Factory, linear
from torch_attention.models.tasks.pooling import MeanPooling
from torch_attention.models.tasks.results import LogitsOutput


@checked
class LateClassifier(nn.Module):
    """Class logits of a sequence: the mean of the class logits of its real tokens (Boizard et al. 2025).

    Args:
        embed_dim: number of features per position.
        num_classes: number of classes; 1 for regression.
        activation: activation of the hidden layer, such as `"gelu"`.

    Raises:
        ValueError: `num_classes` is below 1, or the activation is unknown.
    """

    returns: ClassVar = LogitsOutput

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        *,
        activation: str = "gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.hidden_proj = linear(embed_dim, embed_dim, **factory)
        self.activation = activation_function(activation)
        self.classifier = linear(embed_dim, num_classes, **factory)
        self.pooling = MeanPooling()

    def forward(
        self, x: Float[Tensor, "batch length embed"], mask: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Compute the class logits; zeros for a sequence of padding alone.

        Args:
            x: last hidden states of a model, `(batch, length, embed_dim)`.
            mask: boolean mask, True at real tokens, `(batch, length)`; None for no padding.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match.
        """
        check_sequence("x", x, self.embed_dim)
        hidden = self.activation(self.hidden_proj(x))  # batch length embed
        return self.pooling(self.classifier(hidden), mask)  # batch classes
