r"""Parallel sublayers: mixer and feed-forward network read the same input (Wang & Komatsuzaki 2021).

$$ x \leftarrow x + \mathrm{mixer}(\mathrm{norm}_1(x)) + \mathrm{ffn}(\mathrm{norm}_2(x)) $$

| class                | norms                | model                |
|----------------------|----------------------|----------------------|
| `Parallel`           | one per sublayer     | GPT-NeoX, Falcon 40B |
| `ParallelSharedNorm` | one shared norm      | GPT-J, Falcon 7B     |
"""

from collections.abc import Callable
from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.models.arrangements.layer import Layer, LayerCall
from torch_attention.norms import normalise
from torch_attention.outputs import CachedOutput


class Parallel(Layer):
    """Parallel layer, x = x + mixer(norm1(x)) + ffn(norm2(x)), as in GPT-NeoX; `norm()` makes a norm layer.

    Raises:
        ValueError: `ffn` is None.
    """

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        _check_two(ffn)
        self.attention_norm = norm()
        self.ffn_norm = norm()

    def forward(
        self,
        x: Float[Tensor, "batch *places embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        mixed = self.mix(normalise(self.attention_norm, x), mask, call)
        transformed = self.ffn(normalise(self.ffn_norm, x))  # batch *places embed
        return mixed._replace(output=self.add(x, mixed.output, transformed))


class ParallelSharedNorm(Layer):
    """Parallel layer, x = x + mixer(norm(x)) + ffn(norm(x)), as in GPT-J; `norm()` makes a norm layer.

    Raises:
        ValueError: `ffn` is None.
    """

    def __init__(self, mixer: Any, ffn: Any, norm: Callable[[], Any], residual_scale: float = 1.0):
        super().__init__(mixer, ffn, residual_scale)
        _check_two(ffn)
        self.attention_norm = norm()

    def forward(
        self,
        x: Float[Tensor, "batch *places embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[LayerCall],
    ) -> CachedOutput:
        """Run the layer; arguments and result as in `mixing.mix`."""
        normed = normalise(self.attention_norm, x)  # batch *places embed
        mixed = self.mix(normed, mask, call)
        return mixed._replace(output=self.add(x, mixed.output, self.ffn(normed)))


def _check_two(ffn: Any) -> None:
    if ffn is None:
        raise ValueError("a parallel arrangement needs a feed-forward network beside the mixer, got ffn=None")
