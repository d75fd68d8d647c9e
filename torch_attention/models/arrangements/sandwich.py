r"""Norms on the inputs and the outputs of both sublayers (Ding et al. 2021, CogView; Gemma 2, 2024).

$$ x \leftarrow x + \mathrm{norm}'(f(\mathrm{norm}(x))), \qquad f = \mathrm{mixer}, \mathrm{ffn} $$

In the layers of Gemma 4 with experts, the feed-forward network reads x itself, which it normalises.
"""

from collections.abc import Callable
from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.models.arrangements.layer import Layer, LayerCall
from torch_attention.norms import normalise
from torch_attention.outputs import CachedOutput


class Sandwich(Layer):
    """Sandwich-norm layer, x = x + norm'(f(norm(x))), as in Gemma 2 and 3.

    `norm()` makes a norm layer, and `output_norm()` one of the outputs; None for `norm()`.
    """

    def __init__(
        self,
        mixer: Any,
        ffn: Any,
        norm: Callable[[], Any],
        residual_scale: float = 1.0,
        output_norm: Callable[[], Any] | None = None,
    ):
        super().__init__(mixer, ffn, residual_scale)
        output_norm = norm if output_norm is None else output_norm
        self.attention_norm = norm()
        self.attention_output_norm = output_norm()
        self.ffn_norm: Any = None if ffn is None else norm()
        self.ffn_output_norm: Any = None if ffn is None else output_norm()

    def forward(
        self,
        x: Float[Tensor, "batch *places embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = self.mix(normalise(self.attention_norm, x), mask, call)
        x = self.add(x, normalise(self.attention_output_norm, mixed.output))  # batch *places embed
        if self.ffn is not None:
            change = self.ffn(normalise(self.ffn_norm, x))  # batch *places embed
            x = self.add(x, normalise(self.ffn_output_norm, change))  # batch *places embed
        return mixed._replace(output=x)


class MixerSandwich(Layer):
    """Sandwich-norm layer whose feed-forward network reads x without a norm, as in Gemma 4 with experts.

    `norm()` makes a norm layer.

    Raises:
        ValueError: `ffn` is None.
    """

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        if ffn is None:
            raise ValueError("the arrangement 'sandwich_mixer' needs a feed-forward network, got ffn=None")
        self.attention_norm = norm()
        self.attention_output_norm = norm()
        self.ffn_output_norm = norm()

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = self.mix(normalise(self.attention_norm, x), mask, call)
        x = self.add(x, normalise(self.attention_output_norm, mixed.output))  # batch length embed
        x = self.add(x, normalise(self.ffn_output_norm, self.ffn(x)))  # batch length embed
        return mixed._replace(output=x)
