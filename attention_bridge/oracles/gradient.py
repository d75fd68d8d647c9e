"""Derivatives of an oracle by complex steps, exact to rounding error and independent of the chain rule.

L(x + ih d) = L(x) + ih d·∂L/∂x + O(h²): no difference is computed, so h may be 10⁻³⁰ and only rounding errors remain
(Squire, Trapp 1998; Martins, Sturdza, Alonso 2003). An oracle maps tensors to outputs and is analytic in them.
L = Σ cotangent · output; an output whose cotangent is None does not enter L.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attention_bridge.oracles.common import Array

STEP = 1e-30

Oracle = Callable[[dict[str, Array]], Sequence[Array | None]]


def slope(
    oracle: Oracle,
    tensors: Mapping[str, Array],
    cotangents: Sequence[Array | None],
    name: str,
    direction: Array,
) -> float:
    """Directional derivative of L with respect to the tensor `name` along `direction`: Im L(x + ih d) / h."""
    loss = 0.0
    outputs = oracle({**tensors, name: tensors[name] + 1j * STEP * direction})
    for cotangent, output in zip(cotangents, outputs, strict=True):
        if cotangent is None:
            continue
        if output is None:
            raise ValueError("cotangents: given for an output that is None")
        loss += np.sum(cotangent * output.imag)
    return float(loss / STEP)


def gradient(
    oracle: Oracle, tensors: Mapping[str, Array], cotangents: Sequence[Array | None]
) -> dict[str, Array]:
    """Gradient ∂L/∂x for every element x of every tensor, by one complex step per element."""
    gradients = {}
    for name, tensor in tensors.items():
        gradients[name] = np.zeros(tensor.shape)
        for index in np.ndindex(tensor.shape):
            unit = np.zeros(tensor.shape)
            unit[index] = 1.0
            gradients[name][index] = slope(oracle, tensors, cotangents, name, unit)
    return gradients
