r"""Norms on the outputs of both sublayers, before the residual additions (OLMo 2, 2024).

$$ x \leftarrow x + \mathrm{norm}(f(x)), \qquad f = \mathrm{mixer}, \mathrm{ffn} $$
"""

from collections.abc import Callable
from typing import Any, Unpack

from jax import Array
from jaxtyping import Bool, Float

from jax_attention.models.arrangements.layer import Layer, LayerCall
from jax_attention.norms import normalise
from jax_attention.outputs import CachedOutput


class OutputNorm(Layer):
    """Output-norm layer, x = x + norm(f(x)), as in OLMo 2; `norm()` makes a norm layer."""

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        self.attention_output_norm = norm()
        self.ffn_output_norm: Any = None if ffn is None else norm()

    def __call__(
        self,
        x: Float[Array, "batch *places embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = self.mix(x, mask, call)
        x = self.add(x, normalise(self.attention_output_norm, mixed.output))  # batch *places embed
        if self.ffn is not None:
            x = self.add(x, normalise(self.ffn_output_norm, self.ffn(x)))  # batch *places embed
        return mixed._replace(output=x)
