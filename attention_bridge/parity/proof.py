"""The proof of a mechanism: both mirrors against its float64 oracle, and against each other.

One instance of the catalogue's entry is built in each framework, with the same random weights and inputs, whose values
every dtype holds exactly. It runs under every kind of mask, forward and backward. Outputs are compared with the oracle
and gradients with PyTorch's in float64; these are compared with the oracle's slopes along random directions. In float32
and float64 the bound is 4 u sqrt(n), as in `attention_bridge.parity.comparison`. In bfloat16 it is four times the error
of PyTorch's own operations on the same inputs or, where PyTorch has none, of the mechanism in float64 with every result
rounded to bfloat16; and at most 0.1 for outputs and 0.2 for gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import torch

from attention_bridge.catalogue import DTYPES as DTYPES
from attention_bridge.catalogue import Mechanism
from attention_bridge.errors import InputError
from attention_bridge.oracles.gradient import slope
from attention_bridge.parity import instances, natives
from attention_bridge.parity.bound import Bound
from attention_bridge.parity.comparison import (
    Difference,
    Measured,
    differences,
    error,
    gradient_scales,
    largest_errors,
    pinned_precision,
    summed_terms,
    tolerances,
)
from attention_bridge.parity.measure import COARSE
from attention_bridge.parity.rounded import Rounded
from attention_bridge.parity.run import (
    Arrays,
    Run,
    cotangent,
    is_float,
    named_outputs,
    on_platform,
    run_jax,
    run_torch,
    run_torch_function,
)
from attention_bridge.parity.verdict import Verdict as Verdict
from attention_bridge.parity.verdict import judge as judge
from attention_bridge.weights.leaves import to_torch

DIRECTIONS = 2


def check_dtypes(dtypes: Sequence[str]) -> Sequence[str]:
    """Return `dtypes` if mechanisms can be proven in all of them.

    Raises:
        InputError: a name is not in `DTYPES`.
    """
    unknown = [dtype for dtype in dtypes if dtype not in DTYPES]
    if unknown:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got {', '.join(unknown)}")
    return dtypes


def prove(mechanism: Mechanism, dtype: str = "float32", platform: str = "cpu") -> Verdict:
    """Run the proof of one mechanism in one dtype, under every kind of mask.

    Raises:
        PlatformError: JAX has no such platform.
    """
    return judged(mechanism, dtype, platform, measure_cases(mechanism, dtype, platform))


def measure_cases(mechanism: Mechanism, dtype: str, platform: str = "cpu") -> dict[str, Measured]:
    """Run one mechanism under every kind of mask, and with dropout."""
    cases = instances.cases(mechanism, dtype)
    return {case: measure_case(mechanism, case, dtype, platform) for case in cases}


def judged(mechanism: Mechanism, dtype: str, platform: str, measured: Mapping[str, Measured]) -> Verdict:
    """The verdict on the runs of one mechanism."""
    found = {case: each.differences() for case, each in measured.items()}
    return judge(mechanism.name, dtype, platform, found, wrong_slopes(mechanism))


def forget_compiled() -> None:
    """Clear JAX's compiled programs: each holds memory maps, whose number per process is limited."""
    jax.clear_caches()


def prove_case(
    mechanism: Mechanism, case: str, dtype: str, platform: str = "cpu", *, need_weights: bool = True
) -> list[Difference]:
    """Measure one mechanism under one kind of mask, or with dropout."""
    return measure_case(mechanism, case, dtype, platform, need_weights=need_weights).differences()


def measure_case(
    mechanism: Mechanism, case: str, dtype: str, platform: str = "cpu", *, need_weights: bool = True
) -> Measured:
    """Run one mechanism under one kind of mask, or with dropout, in both frameworks and in float64."""
    # In bfloat16 the native peer computes the output alone; without weights only the output has gradients.
    native = dtype == "bfloat16" and mechanism.native is not None
    loss_over = ("output",) if native or not need_weights else None
    given = given_inputs(mechanism, case, dtype)
    with pinned_precision(), on_platform(platform, float64=dtype == "float64"):
        torch_run = run_torch(
            instances.torch_module(mechanism, dtype, platform),
            {**given, **mechanism.options(need_weights)},
            loss_over,
        )
        jax_run = run_jax(
            instances.jax_module(mechanism, dtype, platform),
            {**given, **mechanism.options(need_weights)},
            loss_over,
        )
    reference = _only(reference_run(mechanism, case, loss_over), torch_run)
    bound = _bound(mechanism, case, dtype, given, reference, need_weights)
    return Measured(torch_run, jax_run, reference, bound)


def given_inputs(mechanism: Mechanism, case: str, dtype: str) -> Arrays:
    """The inputs of a case in a dtype, masks with all axes: one compilation serves all masks."""
    exact = instances.with_full_masks(mechanism, instances.inputs(mechanism, case))
    return {name: x.astype(instances.numpy_dtype(dtype)) if is_float(x) else x for name, x in exact.items()}


def _bound(
    mechanism: Mechanism, case: str, dtype: str, given: Arrays, reference: Run, need_weights: bool
) -> Bound:
    """The bound of outputs and gradients; in bfloat16 four times the error of the yardstick."""
    terms = summed_terms(instances.parameters(mechanism), instances.inputs(mechanism, case))
    if dtype not in COARSE:
        return Bound(dtype, terms)
    yardstick = (
        _rounded_run(mechanism, case, dtype, need_weights)
        if mechanism.native is None
        else _native_run(mechanism, dtype, given)
    )
    found = differences(yardstick, yardstick, _only(reference, yardstick), {"output": 1.0, "gradient": 1.0})
    return Bound(dtype, terms, largest_errors(found))


def _native_run(mechanism: Mechanism, dtype: str, given: Arrays) -> Run:
    """Run the mechanism in PyTorch's own operations in a dtype."""
    weights = {
        name: to_torch(x).requires_grad_() for name, x in instances.cast_parameters(mechanism, dtype).items()
    }
    return run_torch_function(partial(getattr(natives, str(mechanism.native)), weights), weights, given)


def _rounded_run(mechanism: Mechanism, case: str, dtype: str, need_weights: bool) -> Run:
    """Run the mechanism in float64, as proven against its oracle, with every result rounded to a dtype."""
    module = instances.torch_module(mechanism, "float64")
    given = instances.with_full_masks(mechanism, instances.inputs(mechanism, case))
    with Rounded(getattr(torch, dtype)):
        return run_torch(
            module, {**given, **mechanism.options(need_weights)}, None if need_weights else ("output",)
        )


def _only(run: Run, like: Run) -> Run:
    return Run({name: run.outputs[name] for name in like.outputs}, run.gradients)


@cache
def reference_run(mechanism: Mechanism, case: str, loss_over: tuple[str, ...] | None) -> Run:
    """The reference: outputs of the oracle, gradients of PyTorch in float64, which `wrong_slopes` checks."""
    exact = _exact_run(mechanism, case, loss_over)
    return Run(
        dict(zip(exact.outputs, _oracle(mechanism, case)(_tensors(mechanism, case)), strict=True)),
        exact.gradients,
    )


@cache
def wrong_slopes(mechanism: Mechanism) -> tuple[str, ...]:
    """List the float64 gradients of PyTorch that differ from the oracle's, one line each.

    The gradients are compared along random directions, under a mask that includes fully masked rows. A gradient that is
    wrong anywhere has another slope along them, and each direction takes one evaluation of the oracle, not one per
    element.
    """
    case = "empty row" if mechanism.masks else "none"
    oracle, tensors = _oracle(mechanism, case), _tensors(mechanism, case)
    exact = _exact_run(mechanism, case, None)
    cotangents = [cotangent(x.shape) for x in exact.outputs.values()]
    bound, scales = tolerances("float64", 1)["gradient"], gradient_scales(exact.gradients)
    rng = np.random.default_rng(1)
    wrong: list[str] = []
    for name, gradient in exact.gradients.items():
        directions = rng.standard_normal((DIRECTIONS, *gradient.shape))
        expected = np.array([slope(oracle, tensors, cotangents, name, each) for each in directions])
        found = directions.reshape(DIRECTIONS, -1) @ gradient.reshape(-1)
        err = error(found, expected, scales[name] * gradient.size**0.5)
        if err > bound:
            wrong.append(
                f"{case}: gradient {name} in float64 differs from the oracle's: error {err:.1e} along a direction"
            )
    return tuple(wrong)


@cache
def _exact_run(mechanism: Mechanism, case: str, loss_over: tuple[str, ...] | None) -> Run:
    module, given = instances.torch_module(mechanism, "float64"), instances.inputs(mechanism, case)
    with on_platform("cpu", float64=True):
        return run_torch(module, {**given, **mechanism.options(True)}, loss_over)


def _tensors(mechanism: Mechanism, case: str) -> Arrays:
    """Parameters and floating-point inputs, by name."""
    given = instances.inputs(mechanism, case)
    return {**instances.parameters(mechanism), **{name: x for name, x in given.items() if is_float(x)}}


def _oracle(mechanism: Mechanism, case: str) -> Callable[[Arrays], list[np.ndarray]]:
    """The oracle as a function of the tensors alone, returning the outputs in order."""
    weights, given = instances.parameters(mechanism), instances.inputs(mechanism, case)
    fixed: dict[str, Any] = {name: x for name, x in given.items() if not is_float(x)}
    if case == "dropout":
        fixed["dropout_rate"] = instances.DROPOUT

    def oracle(tensors: Arrays) -> list[np.ndarray]:
        called = {name: x for name, x in tensors.items() if name not in weights}
        made = mechanism.oracle({name: tensors[name] for name in weights}, **called, **fixed)
        return list(named_outputs(made).values())

    return oracle
