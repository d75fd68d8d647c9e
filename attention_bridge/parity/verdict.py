"""The result of the proof of one mechanism in one dtype, from its measured differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attention_bridge.parity.difference import Difference


@dataclass(frozen=True)
class Verdict:
    """Result of the proof of one mechanism in one dtype; every figure is of the worst case.

    Attributes:
        name: name of the mechanism.
        dtype: `float32`, `float64` or `bfloat16`.
        platform: platform that JAX ran on.
        torch_err: error of PyTorch's outputs against the oracle.
        jax_err: error of JAX's outputs against the oracle.
        diff: difference of JAX's outputs from PyTorch's.
        gradient_diff: difference of JAX's gradients from PyTorch's.
        tolerance: bound on `torch_err` and `jax_err`; `diff` may be twice as large.
        torch_gradient_err: error of PyTorch's gradients against its gradients in float64, see `wrong_slopes`.
        jax_gradient_err: error of JAX's gradients against PyTorch's in float64.
        gradient_tolerance: bound on the two gradient errors; `gradient_diff` may be twice as large.
        elements: number of elements of the outputs, over all cases.
        same_bits: number of elements that, rounded to float32, have the same bits in both frameworks.
        other_zeros: number of elements that are zeros of opposite sign.
        by_case: largest output error and largest gradient error for each kind of mask, and for dropout.
        ok: whether every error is within its bound, in every case.
        failures: the errors that are not, one line each.
    """

    name: str
    dtype: str
    platform: str
    torch_err: float
    jax_err: float
    diff: float
    gradient_diff: float
    tolerance: float
    torch_gradient_err: float
    jax_gradient_err: float
    gradient_tolerance: float
    elements: int
    same_bits: int
    other_zeros: int
    by_case: dict[str, tuple[float, float]]
    ok: bool
    failures: tuple[str, ...]


def judge(
    name: str,
    dtype: str,
    platform: str,
    found: Mapping[str, Sequence[Difference]],
    wrong_slopes: Sequence[str],
) -> Verdict:
    """The result of a proof.

    Args:
        name: name of the mechanism.
        dtype: dtype of the runs.
        platform: platform that JAX ran on.
        found: measured differences of every case.
        wrong_slopes: gradients of the reference that differ from the oracle's, one line each.
    """
    everything = [difference for case in found.values() for difference in case]
    outputs, gradients = ([d for d in everything if d.kind == kind] for kind in ("output", "gradient"))
    output, grad = _worst(outputs), _worst(gradients)
    failures = (
        *(f"{case}: {d}" for case, of_case in found.items() for d in of_case if not d.ok),
        *wrong_slopes,
    )
    return Verdict(
        name=name,
        dtype=dtype,
        platform=platform,
        torch_err=output.torch_err,
        jax_err=output.jax_err,
        diff=output.diff,
        gradient_diff=grad.diff,
        tolerance=output.tolerance,
        torch_gradient_err=grad.torch_err,
        jax_gradient_err=grad.jax_err,
        gradient_tolerance=grad.tolerance,
        elements=sum(d.elements for d in outputs),
        same_bits=sum(d.same_bits for d in outputs),
        other_zeros=sum(d.other_zeros for d in outputs),
        by_case={
            case: (_largest(of_case, "output"), _largest(of_case, "gradient"))
            for case, of_case in found.items()
        },
        ok=not failures,
        failures=failures,
    )


def _largest(found: Sequence[Difference], kind: str) -> float:
    """The largest error of one kind, `output` or `gradient`, in either framework."""
    return max((max(d.torch_err, d.jax_err) for d in found if d.kind == kind), default=0.0)


def _worst(found: Sequence[Difference]) -> Difference:
    return max(found, key=lambda d: max(d.torch_err, d.jax_err, d.diff / 2) / d.tolerance)
