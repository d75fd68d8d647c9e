r"""Norms on the inputs of both sublayers, inside the residual branches (Radford et al. 2019; Xiong et al. 2020).

$$ x \leftarrow x + f(\mathrm{norm}(x)), \qquad f = \mathrm{mixer}, \mathrm{ffn} $$

The first layer of ModernBERT has no norm before its mixer, because the embeddings are normalised already.
"""

from collections.abc import Callable
from typing import Any, Unpack

from jax import Array
from jaxtyping import Bool, Float

from jax_attention.models.arrangements.layer import Layer, LayerCall
from jax_attention.norms import normalise
from jax_attention.outputs import CachedOutput


class PreNorm(Layer):
    """Pre-norm layer, x = x + f(norm(x)), as in GPT-2 and Llama; `norm()` makes a norm layer."""

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        self.attention_norm: Any = None if mixer is None else norm()
        self.ffn_norm: Any = None if ffn is None else norm()

    def __call__(
        self,
        x: Float[Array, "batch *places embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = CachedOutput(x, None, None)
        if self.attention is not None:
            mixed = self.mix(normalise(self.attention_norm, x), mask, call)
            x = self.add(x, mixed.output)  # batch *places embed
        if self.ffn is not None:
            x = self.add(x, self.ffn(normalise(self.ffn_norm, x)))  # batch *places embed
        return mixed._replace(output=x)


class FeedForwardPreNorm(Layer):
    """Pre-norm layer whose mixer reads x without a norm, as the first one of ModernBERT (Warner et al. 2024)."""

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        self.ffn_norm: Any = None if ffn is None else norm()

    def __call__(
        self,
        x: Float[Array, "batch *places embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = self.mix(x, mask, call)
        x = self.add(x, mixed.output)  # batch *places embed
        if self.ffn is not None:
            x = self.add(x, self.ffn(normalise(self.ffn_norm, x)))  # batch *places embed
        return mixed._replace(output=x)
