r"""Sandwich norms, with a learned augmented residual beside the mixer (Gemma 3n, Google 2025).

$$ n = \mathrm{norm}(x), \qquad
   x \leftarrow \big(x + \mathrm{norm}'(\mathrm{mixer}(n)) + \mathrm{laurel}(n)\big) / \sqrt{2}, \qquad
   x \leftarrow x + \mathrm{norm}'(\mathrm{ffn}(\mathrm{norm}(x))) $$
"""

from collections.abc import Callable
from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.models.arrangements.layer import Layer, LayerCall
from torch_attention.norms import normalise
from torch_attention.outputs import CachedOutput


class LaurelSandwich(Layer):
    """Sandwich-norm layer with a learned augmented residual beside the mixer, as in Gemma 3n.

    `norm()` makes a norm layer, and `laurel()` the learned augmented residual.

    Raises:
        ValueError: `ffn` is None.
    """

    def __init__(
        self,
        mixer: Any,
        ffn: Any,
        norm: Callable[[], Any],
        residual_scale: float = 1.0,
        *,
        laurel: Callable[[], Any],
    ):
        super().__init__(mixer, ffn, residual_scale)
        if ffn is None:
            raise ValueError("the arrangement 'sandwich_laurel' needs a feed-forward network, got ffn=None")
        self.attention_norm = norm()
        self.laurel = laurel()
        self.attention_output_norm = norm()
        self.ffn_norm = norm()
        self.ffn_output_norm = norm()

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        normed = normalise(self.attention_norm, x)  # batch length embed
        mixed = self.mix(normed, mask, call)
        x = self.add(x, normalise(self.attention_output_norm, mixed.output))  # batch length embed
        x = (x + self.laurel(normed)) * 2**-0.5  # batch length embed
        change = self.ffn(normalise(self.ffn_norm, x))  # batch length embed
        return mixed._replace(output=self.add(x, normalise(self.ffn_output_norm, change)))
