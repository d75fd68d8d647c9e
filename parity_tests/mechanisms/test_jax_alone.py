"""The JAX mirror without PyTorch: every mechanism, compiled, against its float64 oracle, forward and backward.

`make test-newest` runs this file alone, with the newest JAX, Flax and NumPy and without `conftest.py`, which needs
PyTorch. Warnings are errors, deprecation warnings included.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attention_bridge.catalogue import CATALOGUE, Mechanism
from attention_bridge.catalogue.part import jax_shapes
from attention_bridge.oracles.gradient import slope
from attention_bridge.parity import instances
from attention_bridge.parity.measure import error, summed_terms, tolerances
from attention_bridge.parity.run import Arrays, cotangent, is_float, named_outputs, on_platform, run_jax
from attention_bridge.weights import convert, transfer
from attention_bridge.weights.containers import open_container

pytestmark = pytest.mark.survey

IDS = [mechanism.name for mechanism in CATALOGUE]


def case_of(mechanism: Mechanism) -> str:
    """The most general mask that the mechanism supports."""
    return "empty row" if mechanism.masks else "none"


@cache
def parameters(mechanism: Mechanism) -> Arrays:
    """Random weights and buffers by canonical name; the shapes come from the JAX module."""
    leaves = open_container(jax_shapes(mechanism.module, {})).leaves
    empty = {name: np.zeros(leaf.shape, np.float32) for name, leaf in leaves.items()}
    rng = np.random.default_rng(1)
    return {
        name: 0.4 * rng.standard_normal(x.shape) + float(name.endswith("norm.weight"))
        for name, x in sorted(convert(empty, "jax_attention", "torch_attention")[0].items())
    }


def given(mechanism: Mechanism, dtype: str) -> Arrays:
    full = instances.with_full_masks(mechanism, instances.inputs(mechanism, case_of(mechanism)))
    return {name: x.astype(dtype) if is_float(x) else x for name, x in full.items()}


def oracle_of(mechanism: Mechanism, tensors: Arrays) -> list[np.ndarray]:
    fixed = {
        name: x for name, x in instances.inputs(mechanism, case_of(mechanism)).items() if name not in tensors
    }
    weights = {name: tensors[name] for name in parameters(mechanism)}
    called = {name: x for name, x in tensors.items() if name not in weights}
    return list(named_outputs(mechanism.oracle(weights, **called, **fixed)).values())


def outputs_of(mechanism: Mechanism, dtype: str) -> list[str]:
    """The names of the outputs in the oracle's order; a compiled function sorts them."""
    names: list[str] = []
    inputs = {name: jnp.asarray(x) for name, x in given(mechanism, dtype).items()}
    module, options = module_of(mechanism, dtype), mechanism.options(need_weights=True)
    nnx.eval_shape(lambda inputs: names.extend(named_outputs(module(**inputs, **options))), inputs)
    return names


def tensors_of(mechanism: Mechanism) -> Arrays:
    inputs = instances.inputs(mechanism, case_of(mechanism))
    return {**parameters(mechanism), **{name: x for name, x in inputs.items() if is_float(x)}}


def module_of(mechanism: Mechanism, dtype: str) -> nnx.Module:
    module = jax_shapes(mechanism.module, {"param_dtype": dtype})
    module.eval()
    return transfer({name: x.astype(dtype) for name, x in parameters(mechanism).items()}, module)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mechanism", CATALOGUE, ids=IDS)
def test_mechanism_equals_its_oracle(mechanism: Mechanism, dtype: str) -> None:
    with jax.default_matmul_precision("highest"), on_platform("cpu", float64=dtype == "float64"):
        run = run_jax(
            module_of(mechanism, dtype), {**given(mechanism, dtype), **mechanism.options(need_weights=True)}
        )
        names = outputs_of(mechanism, dtype)
    inputs, tensors = instances.inputs(mechanism, case_of(mechanism)), tensors_of(mechanism)
    bound = tolerances(dtype, summed_terms(parameters(mechanism), inputs))
    right = oracle_of(mechanism, tensors)
    for name, expected in zip(names, right, strict=True):
        output = run.outputs[name]
        assert output.dtype == dtype, name
        assert error(output.astype(np.float64), expected) <= bound["output"], name
    assert run.gradients.keys() <= tensors.keys()
    for name, gradient in run.gradients.items():
        assert np.isfinite(gradient).all(), name
    if dtype == "float64":
        check_slopes(mechanism, run.gradients, tensors, [cotangent(x.shape) for x in right])


def check_slopes(
    mechanism: Mechanism, gradients: Arrays, tensors: Arrays, cotangents: list[np.ndarray]
) -> None:
    """Check each gradient against the oracle's derivative along a random direction."""
    rng = np.random.default_rng(2)
    largest = max(np.abs(x).max(initial=0.0) for x in gradients.values())
    for name, gradient in gradients.items():
        direction = rng.standard_normal(gradient.shape)
        expected = slope(lambda t: oracle_of(mechanism, t), tensors, cotangents, name, direction)
        found = np.sum(direction * gradient)
        assert abs(found - expected) <= 1e-11 * largest * gradient.size**0.5, name


def test_pytorch_is_not_imported() -> None:
    code = "import sys; sys.modules['torch'] = None; import parity_tests.mechanisms.test_jax_alone"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
