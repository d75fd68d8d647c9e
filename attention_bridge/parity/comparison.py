"""Proving that a PyTorch module and a JAX module compute the same thing.

`compare` runs both on the same inputs, forward and backward, and measures every output and every gradient
against a float64 reference; `assert_parity` raises if one is further away than rounding explains, and names the
first tensor that is.

The measure is err(x) = max|x - reference| / max|reference| and the bound is err <= 4 u sqrt(n): u is the unit
roundoff of the dtype, n the number of terms summed on the way, and the constant is the same for everything. In dtypes
of 16 bits that exceeds 1 soon; there the bound is four times what PyTorch errs by in the same dtype, and at most 0.1,
or 0.2 of gradients.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from attention_bridge.parity.measure import COARSE, coarse_tolerance
from attention_bridge.parity.measure import CONSTANT as CONSTANT
from attention_bridge.parity.measure import UNIT_ROUNDOFF as UNIT_ROUNDOFF
from attention_bridge.parity.measure import error as error
from attention_bridge.parity.measure import summed_terms as summed_terms
from attention_bridge.parity.measure import tolerances as tolerances
from attention_bridge.parity.run import Run, bind, is_float, on_platform, run_jax, run_torch
from attention_bridge.parity.stages import first_diverging_stage
from attention_bridge.weights.leaves import to_numpy

VANISHING = 1e-12


@contextmanager
def pinned_precision() -> Iterator[None]:
    """Matrix products in the full precision of their dtype, in both frameworks, while the context lasts.

    By default JAX multiplies float32 through bfloat16 on TPU and TF32 on recent GPUs; PyTorch may use TF32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from the reference in each framework, and from one framework to the other.

    Attributes:
        name: of the output, input or parameter.
        kind: `output` or `gradient`.
        torch_err: error of PyTorch against the reference.
        jax_err: error of JAX against the reference.
        diff: error of JAX against PyTorch.
        tolerance: the bound on the first two; twice it bounds the third.
        elements: how many numbers the tensor holds.
        same_bits: how many of them, rounded to float32, have the same bits in both frameworks.
        other_zeros: how many of the others are zero in both, with another sign.
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

    @property
    def ok(self) -> bool:
        """Whether rounding explains all three."""
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
    """Every output and gradient of two runs, measured.

    Args:
        torch_run: what PyTorch made.
        jax_run: what JAX made.
        reference: what is right, in float64.
        bounds: the tolerance of each kind, `output` and `gradient`.

    Raises:
        ValueError: the runs do not hold the same tensors, or no output.
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
            found.append(Difference(name, kind, torch_err, jax_err, diff, bounds[kind], *counted))
    return found


def _unequal(x: np.ndarray, reference: np.ndarray) -> float:
    return 0.0 if np.array_equal(x, reference) else float("inf")


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int]:
    """How many elements, rounded to float32, have the same bits in both, and how many are zeros of another sign."""
    if ours.shape != theirs.shape:
        return 0, 0
    ours, theirs = (np.ascontiguousarray(x, np.float32) for x in (ours, theirs))
    same = ours.view(np.uint32) == theirs.view(np.uint32)
    return int(same.sum()), int((~same & (ours == theirs)).sum())


def gradient_scales(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What the error of each gradient is relative to: its largest number.

    Where that is rounding alone, as of a bias of keys, which no softmax sees, it is the largest of all gradients.
    """
    scales = {name: float(np.max(np.abs(x), initial=0.0)) for name, x in gradients.items()}
    largest = max(scales.values(), default=0.0)
    return {name: largest if scale < VANISHING * largest else scale for name, scale in scales.items()}


def compare(
    torch_module: torch.nn.Module, jax_module: nnx.Module, *inputs: Any, platform: str = "cpu", **kwargs: Any
) -> list[Difference]:
    """Measure how far two modules are from one another, forward and backward.

    The reference is the torch module in float64. Both run as they are: put them in `eval()` mode, or give them
    dropout masks, for a comparison that chance does not decide.

    Args:
        torch_module: the one.
        jax_module: the other, with the same weights (see `attention_bridge.weights.transfer`).
        inputs: arrays of numpy or either framework; floating-point ones are differentiated.
        platform: where JAX runs: `cpu`, `gpu` or `tpu`.
        kwargs: further arguments of both calls, by the same names in both.

    Returns:
        One `Difference` for each output, then for each gradient.

    Raises:
        ValueError: the modules do not have the same outputs or parameters.
        PlatformError: JAX has no such platform.
    """
    named = _named_inputs(torch_module, inputs, kwargs)
    parameters = _parameters(torch_module)
    dtype = _coarsest_dtype({**parameters, **named})
    exact = {name: x.astype(np.float64) if is_float(x) else x for name, x in named.items()}
    with pinned_precision(), on_platform(platform, float64=dtype == "float64"):
        torch_run = run_torch(torch_module, named)
        jax_run = run_jax(jax_module, named, positional=_positional(named, inputs))
        reference = run_torch(deepcopy(torch_module).double(), exact)
    bounds = tolerances(dtype, summed_terms(parameters, named))
    if dtype in COARSE:
        own = differences(torch_run, torch_run, reference, bounds)
        bounds = {
            kind: coarse_tolerance(
                dtype, max((d.torch_err for d in own if d.kind == kind), default=0.0), kind
            )
            for kind in bounds
        }
    return differences(torch_run, jax_run, reference, bounds)


def assert_parity(
    torch_module: torch.nn.Module, jax_module: nnx.Module, *inputs: Any, platform: str = "cpu", **kwargs: Any
) -> None:
    """Raise unless two modules compute the same thing; arguments and errors as in `compare`.

    Raises:
        AssertionError: they do not; the message names the first submodule whose output differs, the first
            tensor that does, and lists them all.
    """
    found = compare(torch_module, jax_module, *inputs, platform=platform, **kwargs)
    failures = [difference for difference in found if not difference.ok]
    if not failures:
        return
    named = _named_inputs(torch_module, inputs, kwargs)
    bound, dtype = 2 * found[0].tolerance, _coarsest_dtype({**_parameters(torch_module), **named})
    with pinned_precision(), on_platform(platform, float64=dtype == "float64"):
        stage = first_diverging_stage(
            torch_module,
            jax_module,
            named,
            lambda a, b: error(b, a) > bound,
            positional=_positional(named, inputs),
        )
    where = f", first in submodule `{stage}`" if stage else ""
    listing = "\n".join(map(str, found))
    raise AssertionError(f"{failures[0].kind} `{failures[0].name}` differs{where}\n{listing}")


def _named_inputs(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, arrays of either framework in numpy."""
    arrays = (np.ndarray, jax.Array, torch.Tensor)
    bound = bind(module, args, kwargs)
    return {name: to_numpy(name, x) if isinstance(x, arrays) else x for name, x in bound.items()}


def _positional(named: Mapping[str, Any], inputs: tuple[Any, ...]) -> tuple[str, ...]:
    """The names, in PyTorch, of the inputs that are passed by position."""
    return tuple(named)[: len(inputs)]


def _parameters(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: to_numpy(name, x) for name, x in module.named_parameters()}


def _coarsest_dtype(tensors: Mapping[str, Any]) -> str:
    """The floating-point dtype with the largest roundoff among the tensors."""
    names = {str(x.dtype) for x in tensors.values() if is_float(x)}
    return max(names & UNIT_ROUNDOFF.keys(), key=UNIT_ROUNDOFF.__getitem__, default="float32")
