"""Comparison of a PyTorch module and a JAX module, forward and backward.

`compare` runs both on the same inputs and measures the error of every output and every gradient against a float64
reference. `assert_parity` raises if an error is larger than rounding explains, and names the first tensor that differs.

The measure is err(x) = max|x - reference| / max|reference| and the bound is err <= 4 u sqrt(n): u is the unit
roundoff of the dtype, n the number of terms summed, and the constant is the same for all modules. In 16-bit dtypes this
bound soon exceeds 1; there the bound is four times PyTorch's own error in the same dtype, and at most 0.1 for outputs
and 0.2 for gradients.
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

from attention_bridge.parity.calls import Call, Calls, calls
from attention_bridge.parity.couple import Couple
from attention_bridge.parity.matching import Outputs
from attention_bridge.parity.measure import COARSE, coarse_tolerance, own_tolerance
from attention_bridge.parity.measure import CONSTANT as CONSTANT
from attention_bridge.parity.measure import UNIT_ROUNDOFF as UNIT_ROUNDOFF
from attention_bridge.parity.measure import error as error
from attention_bridge.parity.measure import summed_terms as summed_terms
from attention_bridge.parity.measure import tolerances as tolerances
from attention_bridge.parity.run import Run, is_float, on_platform
from attention_bridge.parity.stages import first_diverging_stage
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import to_numpy

VANISHING = 1e-12


@contextmanager
def pinned_precision() -> Iterator[None]:
    """Use the full precision of the dtype for matrix products in both frameworks while the context is active.

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
            found.append(Difference(name, kind, torch_err, jax_err, diff, bounds[kind], *counted))
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


def compare(
    torch_module: torch.nn.Module,
    jax_module: Any,
    *inputs: Any,
    platform: str = "cpu",
    layout: Layout | str | None = None,
    names: Mapping[str, str] | None = None,
    outputs: Outputs = None,
    torch_call: Call | None = None,
    jax_call: Call | None = None,
    **kwargs: Any,
) -> list[Difference]:
    """Measure the differences between a PyTorch module and a JAX module, forward and backward.

    The modules may be of the mirrors or of one's own, with other names: their layers then are aligned as in
    `attention_bridge.weights.transfer`, and gradients are compared by PyTorch's names. The reference is the torch
    module in float64. The modules run in their present mode: put them in `eval()` mode, or pass dropout masks, so
    that the comparison is not random.

    Args:
        torch_module: the PyTorch module.
        jax_module: the JAX module with the same weights (see `attention_bridge.weights.transfer`): of Flax NNX or
            Equinox, or a pair of a function and its variables, such as ``(linen_module.apply, variables)``.
        inputs: positional arguments of both calls, arrays of numpy or either framework; gradients are taken of
            floating-point ones. For a `jax.ShapeDtypeStruct` random numbers are drawn.
        platform: platform that JAX runs on: `cpu`, `gpu` or `tpu`.
        layout: layout of the PyTorch module's names, or its name, if the JAX module has the mirrors' names; None
            to align the layers of modules that are not of the mirrors.
        names: names of PyTorch's modules or paths, and JAX's names for them, such as ``{"stack": "blocks"}``.
        outputs: names of PyTorch's outputs to be compared and JAX's names for them, or a function that picks
            the compared part of either result; None for all outputs, by name or else in their order.
        torch_call: function of the PyTorch module and the inputs that calls it; None calls the module itself.
        jax_call: function of the JAX module and the inputs that calls it, for example with other axes; None calls the
            module itself.
        kwargs: keyword arguments of both calls.

    Returns:
        One `Difference` for each output, then for each gradient.

    Raises:
        ValueError: the modules do not have the same outputs or parameters, or do not take the inputs.
        PlatformError: JAX has no such platform.
    """
    couple = Couple(torch_module, jax_module, layout, names, outputs)
    return _compare(couple, calls(torch_module, inputs, kwargs, torch_call, jax_call), platform)


def assert_parity(
    torch_module: torch.nn.Module,
    jax_module: Any,
    *inputs: Any,
    platform: str = "cpu",
    layout: Layout | str | None = None,
    names: Mapping[str, str] | None = None,
    outputs: Outputs = None,
    torch_call: Call | None = None,
    jax_call: Call | None = None,
    **kwargs: Any,
) -> None:
    """Raise unless a PyTorch module and a JAX module compute the same outputs and gradients.

    Args:
        torch_module: the PyTorch module.
        jax_module: the JAX module with the same weights, as in `compare`.
        inputs: positional arguments of both calls, as in `compare`.
        platform: platform that JAX runs on: `cpu`, `gpu` or `tpu`.
        layout: layout of the PyTorch module's names, as in `compare`.
        names: names of PyTorch's modules or paths, and JAX's names for them.
        outputs: names of PyTorch's outputs to be compared and JAX's names for them, or a function, as in `compare`.
        torch_call: function of the PyTorch module and the inputs that calls it; None calls the module itself.
        jax_call: function of the JAX module and the inputs that calls it; None calls the module itself.
        kwargs: keyword arguments of both calls.

    Raises:
        AssertionError: an output or a gradient differs; the message names the first submodule whose output differs and
            the first tensor that differs, and lists all tensors.
        ValueError: the modules do not have the same outputs or parameters, or do not take the inputs.
        PlatformError: JAX has no such platform.
    """
    couple = Couple(torch_module, jax_module, layout, names, outputs)
    called = calls(torch_module, inputs, kwargs, torch_call, jax_call)
    found = _compare(couple, called, platform)
    failures = [difference for difference in found if not difference.ok]
    if not failures:
        return
    bound = 2 * found[0].tolerance
    with pinned_precision(), on_platform(platform, float64=_dtype(torch_module, called) == "float64"):
        stage = first_diverging_stage(
            torch_module, jax_module, called, lambda a, b: error(b, a) > bound, couple.submodules()
        )
    where = f", first in submodule `{stage}`" if stage else ""
    listing = "\n".join(map(str, found))
    raise AssertionError(f"{failures[0].kind} `{failures[0].name}` differs{where}\n{listing}")


def _compare(couple: Couple, called: Calls, platform: str) -> list[Difference]:
    module, parameters = couple.torch_module, _parameters(couple.torch_module)
    dtype = _dtype(module, called)
    exact = {name: x.astype(np.float64) if is_float(x) else x for name, x in called.inputs.items()}
    with pinned_precision(), on_platform(platform, float64=dtype == "float64"):
        torch_run = couple.run_torch(module, called, called.inputs)
        jax_run, absent = couple.run_jax(called)
        reference = couple.run_torch(deepcopy(module).double(), called, exact)
    ours, theirs = couple.matched(torch_run.outputs, jax_run.outputs)
    right = {name: reference.outputs[name] for name in ours}
    jax_run = Run(theirs, jax_run.gradients)
    torch_run, reference = (
        Run(arrays, {name: x for name, x in run.gradients.items() if name not in absent})
        for arrays, run in ((ours, torch_run), (right, reference))
    )
    bounds = tolerances(dtype, summed_terms(parameters, called.inputs))
    if dtype in COARSE or couple.is_own:
        own = differences(torch_run, torch_run, reference, bounds)
        worst = {kind: max((d.torch_err for d in own if d.kind == kind), default=0.0) for kind in bounds}
        bounds = {
            kind: coarse_tolerance(dtype, worst[kind], kind)
            if dtype in COARSE
            else own_tolerance(bound, worst[kind], kind)
            for kind, bound in bounds.items()
        }
    return differences(torch_run, jax_run, reference, bounds)


def _dtype(module: torch.nn.Module, called: Calls) -> str:
    """The coarsest floating-point dtype of the parameters and inputs."""
    return _coarsest_dtype({**_parameters(module), **called.inputs})


def _parameters(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: to_numpy(name, x) for name, x in module.named_parameters()}


def _coarsest_dtype(tensors: Mapping[str, Any]) -> str:
    """The floating-point dtype with the largest unit roundoff among the tensors."""
    names = {str(x.dtype) for x in tensors.values() if is_float(x)}
    return max(names & UNIT_ROUNDOFF.keys(), key=UNIT_ROUNDOFF.__getitem__, default="float32")
