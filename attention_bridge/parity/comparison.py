"""Comparison of a PyTorch module and a JAX module, forward and backward.

`compare` runs both on the same inputs and measures the error of every output and every gradient against a float64
reference. `assert_parity` raises if an error is larger than rounding explains, and names the first tensor that differs.

The measure is err(x) = max|x - reference| / max|reference| and the bound is err <= 4 u sqrt(n): u is the unit
roundoff of the dtype, n the number of terms summed, and the constant is the same for all modules. In 16-bit dtypes this
bound soon exceeds 1; there the bound is four times PyTorch's own error in the same dtype, and at most 0.1 for outputs
and 0.2 for gradients.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import torch

from attention_bridge.parity.bound import Bound
from attention_bridge.parity.calls import Call, Calls, calls
from attention_bridge.parity.couple import Couple
from attention_bridge.parity.difference import Difference as Difference
from attention_bridge.parity.difference import differences as differences
from attention_bridge.parity.difference import gradient_scales as gradient_scales
from attention_bridge.parity.difference import same_bits as same_bits
from attention_bridge.parity.matching import Outputs
from attention_bridge.parity.measure import COARSE
from attention_bridge.parity.measure import CONSTANT as CONSTANT
from attention_bridge.parity.measure import UNIT_ROUNDOFF as UNIT_ROUNDOFF
from attention_bridge.parity.measure import error as error
from attention_bridge.parity.measure import summed_terms as summed_terms
from attention_bridge.parity.measure import tolerances as tolerances
from attention_bridge.parity.run import Run, is_float, on_platform
from attention_bridge.parity.stages import first_diverging_stage
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import to_numpy


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
    return measure(couple, called, platform).differences()


@dataclass(frozen=True)
class Measured:
    """The runs of a comparison and its bound.

    Attributes:
        torch_run: outputs and gradients of PyTorch.
        jax_run: outputs and gradients of JAX, by the same names.
        reference: outputs and gradients of the reference, in float64.
        bound: the bound on errors against the reference.
    """

    torch_run: Run
    jax_run: Run
    reference: Run
    bound: Bound

    def differences(self) -> list[Difference]:
        """The errors of every output, then of every gradient."""
        return differences(self.torch_run, self.jax_run, self.reference, self.bound.tolerances())


def measure(couple: Couple, called: Calls, platform: str, *, is_whole: bool = False) -> Measured:
    """Run a pair of models and the reference, forward and backward.

    Args:
        couple: the models.
        called: how they are called.
        platform: platform that JAX runs on.
        is_whole: whether these are whole models, in which later layers enlarge the rounding of earlier ones, so that
            the error of PyTorch in the same dtype counts, too. Models that are not of the mirrors always are.
    """
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
    bound = Bound(dtype, summed_terms(parameters, called.inputs))
    if dtype in COARSE or couple.is_own or is_whole:
        own = differences(torch_run, torch_run, reference, bound.tolerances())
        bound = replace(bound, reference_errors=largest_errors(own))
    return Measured(torch_run, jax_run, reference, bound)


def largest_errors(found: Iterable[Difference]) -> dict[str, float]:
    """The largest error of PyTorch, for `output` and `gradient`."""
    found = list(found)
    return {
        kind: max((d.torch_err for d in found if d.kind == kind), default=0.0)
        for kind in ("output", "gradient")
    }


def _dtype(module: torch.nn.Module, called: Calls) -> str:
    """The coarsest floating-point dtype of the parameters and inputs."""
    return _coarsest_dtype({**_parameters(module), **called.inputs})


def _parameters(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: to_numpy(name, x) for name, x in module.named_parameters()}


def _coarsest_dtype(tensors: Mapping[str, Any]) -> str:
    """The floating-point dtype with the largest unit roundoff among the tensors."""
    names = {str(x.dtype) for x in tensors.values() if is_float(x)}
    return max(names & UNIT_ROUNDOFF.keys(), key=UNIT_ROUNDOFF.__getitem__, default="float32")
