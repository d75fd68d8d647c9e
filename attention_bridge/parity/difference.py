"""The errors of one tensor in both frameworks, and the tensors of two runs measured against a reference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from attention_bridge.parity.measure import error
from attention_bridge.parity.run import Run, is_float

VANISHING = 1e-12


@dataclass(frozen=True)
class Difference:
    """Errors of one tensor: each framework against the reference, and JAX against PyTorch.

    Attributes:
        name: name of the output, input or parameter.
        kind: `output` or `gradient`.
        torch_err: error of PyTorch against the reference.
        jax_err: error of JAX against the reference.
        diff: error of JAX against PyTorch.
        tolerance: bound on `torch_err` and `jax_err`; `diff` may be twice as large.
        elements: number of elements of the tensor.
        same_bits: number of elements that, rounded to float32, have the same bits in both frameworks.
        other_zeros: number of elements that are zeros of opposite sign.
        scale: magnitude to which the errors are relative: the largest of the reference, see `gradient_scales`.
    """

    name: str
    kind: str
    torch_err: float
    jax_err: float
    diff: float
    tolerance: float
    elements: int
    same_bits: int
    other_zeros: int
    scale: float = 1.0

    @property
    def ok(self) -> bool:
        """Whether rounding explains all three errors."""
        return max(self.torch_err, self.jax_err, self.diff / 2) <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "DIFFERS"
        return (
            f"{self.kind:>8} {self.name:<36} torch {self.torch_err:.1e}  jax {self.jax_err:.1e}  "
            f"torch-jax {self.diff:.1e}  tolerance {self.tolerance:.1e}  {verdict}"
        )


def differences(
    torch_run: Run, jax_run: Run, reference: Run, bounds: Mapping[str, float]
) -> list[Difference]:
    """Measure every output and gradient of two runs.

    Args:
        torch_run: outputs and gradients of PyTorch.
        jax_run: outputs and gradients of JAX.
        reference: outputs and gradients of the reference, in float64.
        bounds: tolerances of `output` and `gradient`.

    Raises:
        ValueError: the runs have different tensors, or no output.
    """
    if not torch_run.outputs and not jax_run.outputs:
        raise ValueError("both modules must return at least one array or number, got none")
    scales = gradient_scales(reference.gradients)
    found = []
    for kind, ours, theirs, right in (
        ("output", torch_run.outputs, jax_run.outputs, reference.outputs),
        ("gradient", torch_run.gradients, jax_run.gradients, reference.gradients),
    ):
        if not ours.keys() == theirs.keys() == right.keys():
            everywhere = ours.keys() & theirs.keys() & right.keys()
            extra = ", ".join(sorted((ours.keys() | theirs.keys() | right.keys()) - everywhere))
            raise ValueError(f"both modules must have the same {kind}s, but not both have {extra}")
        for name, truth in right.items():
            scale = scales[name] if kind == "gradient" else float(np.max(np.abs(truth), initial=0))
            exact = not is_float(truth)  # integers and booleans are not rounded
            far: Callable[..., float] = _unequal if exact else partial(error, scale=scale)
            torch_err, jax_err = far(ours[name], truth), far(theirs[name], truth)
            diff = far(theirs[name], ours[name] if exact else ours[name].astype(np.float64))
            counted = truth.size, *same_bits(ours[name], theirs[name])
            found.append(Difference(name, kind, torch_err, jax_err, diff, bounds[kind], *counted, scale))
    return found


def _unequal(x: np.ndarray, reference: np.ndarray) -> float:
    return 0.0 if np.array_equal(x, reference) else float("inf")


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int]:
    """Count the elements that have the same bits once rounded to float32, and the zeros of opposite sign."""
    if ours.shape != theirs.shape:
        return 0, 0
    ours, theirs = (np.ascontiguousarray(x, np.float32) for x in (ours, theirs))
    same = ours.view(np.uint32) == theirs.view(np.uint32)
    return int(same.sum()), int((~same & (ours == theirs)).sum())


def gradient_scales(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The scale of each gradient's error: its largest magnitude.

    A gradient that is zero but for rounding, such as the gradient of a key bias, which cancels in the softmax, has the
    largest magnitude of all gradients as its scale.
    """
    scales = {name: float(np.max(np.abs(x), initial=0.0)) for name, x in gradients.items()}
    largest = max(scales.values(), default=0.0)
    return {name: largest if scale < VANISHING * largest else scale for name, scale in scales.items()}
