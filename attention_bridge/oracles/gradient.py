"""The gradient of an oracle by complex steps: exact to round-off, and knowing nothing of the chain rule."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attention_bridge.oracles.common import Array

STEP = 1e-30


def gradient(
    oracle: Callable[[dict[str, Array]], Sequence[Array | None]],
    tensors: Mapping[str, Array],
    cotangents: Sequence[Array | None],
) -> dict[str, Array]:
    """∂L/∂x = Im L(x + ih) / h for every element x of every tensor, L = Σ cotangent · output.

    L(x + ih) = L(x) + ih L'(x) + O(h²): nothing is subtracted, so h may be 10⁻³⁰ and the error is round-off
    (Squire, Trapp 1998; Martins, Sturdza, Alonso 2003). `oracle` maps the tensors to its outputs and is
    analytic in them; an output whose cotangent is None is not in L.
    """
    gradients = {}
    for name, tensor in tensors.items():
        gradients[name] = np.zeros(tensor.shape)
        for index in np.ndindex(tensor.shape):
            nudged = tensor.astype(np.complex128)
            nudged[index] += 1j * STEP
            outputs = oracle({**tensors, name: nudged})
            loss = 0.0
            for cotangent, output in zip(cotangents, outputs, strict=True):
                if cotangent is None:
                    continue
                if output is None:
                    raise ValueError("cotangents: given for an output that is None")
                loss += np.sum(cotangent * output.imag)
            gradients[name][index] = loss / STEP
    return gradients
