r"""Norms after the residual additions of both sublayers (Vaswani et al. 2017).

$$ x \leftarrow \mathrm{norm}(x + f(x)), \qquad f = \mathrm{mixer}, \mathrm{ffn} $$
"""

from collections.abc import Callable
from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.models.arrangements.layer import Layer, LayerCall
from torch_attention.norms import normalise
from torch_attention.outputs import CachedOutput


class PostNorm(Layer):
    """Post-norm layer, x = norm(x + f(x)), as in the original Transformer and BERT; `norm()` makes a norm layer."""

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        self.attention_norm = norm()
        self.ffn_norm: Any = None if ffn is None else norm()

    def forward(
        self,
        x: Float[Tensor, "batch *places embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = self.mix(x, mask, call)
        x = normalise(self.attention_norm, self.add(x, mixed.output))  # batch *places embed
        if self.ffn is not None:
            x = normalise(self.ffn_norm, self.add(x, self.ffn(x)))  # batch *places embed
        return mixed._replace(output=x)
