"""Several devices compute what one does: attention and whole models, forward and backward, in both frameworks.

What they computed comes from processes of their own, see `sharded.py`; here it is compared with one device, with the
definition in float64, and with the other framework.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.measure import error, tolerances
from attention_bridge.parity import gradient_scales
from attention_bridge.running import run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.conformance import MIRRORS, oracle
from parity_tests.sharded import CALLED, CONTROLS, MODELS, PLACED, given, names, weights

pytestmark = pytest.mark.slow

BOUND = tolerances("float64", 1)["gradient"]
each_mirror = pytest.mark.parametrize("mirror", MIRRORS)
each_call = pytest.mark.parametrize(("name", "mesh", "scheme"), CALLED, ids=map("/".join, CALLED))
each_model = pytest.mark.parametrize(("mirror", "name", "mesh"), PLACED, ids=map("/".join, PLACED))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every case gave, by framework; both run at once."""
    folder = tmp_path_factory.mktemp("sharded")
    running = {
        mirror: subprocess.Popen(
            [sys.executable, "-m", "parity_tests.sharded", mirror, str(folder / f"{mirror}.npz")],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for mirror in MIRRORS
    }
    for process in running.values():
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
    return {mirror: dict(np.load(folder / f"{mirror}.npz")) for mirror in MIRRORS}


def of(results, mirror, *case):
    """What one case gave, by name."""
    prefix = "/".join(case) + "/"
    return {key.removeprefix(prefix): x for key, x in results[mirror].items() if key.startswith(prefix)}


@cache
def call_on_one_device(mirror, name):
    """Output and gradients of a call by the definition, in float64."""
    arrays, options, cotangent = given(name)
    alone = MIRRORS[mirror]
    options = {**options, "implementation": "reference"}
    output = np.asarray(alone("dot_product_attention", **arrays, **options))
    return {"output": output} | alone.gradient("dot_product_attention", arrays, cotangent, **options)


@cache
def model_on_one_device(name):
    """Outputs and gradients of a model by framework, all in float64."""
    inputs, given = MODELS[name].inputs, weights(name)
    ours = transfer(given, MODELS[name].made(names("torch"), {"dtype": torch.float64})).eval()
    with jax.enable_x64(True):
        theirs = MODELS[name].made(names("jax"), {"rngs": nnx.Rngs(0), "param_dtype": "float64"})
        theirs.eval()
        runs = {"torch": run_torch(ours, inputs), "jax": run_jax(transfer(given, theirs), inputs)}
    return {mirror: run.outputs | run.gradients for mirror, run in runs.items()}


def assert_same_model(found, expected, bound=BOUND):
    """Every output and gradient within the bound."""
    scales = gradient_scales(expected)  # of an output, too, the largest number
    assert found.keys() == expected.keys()
    for key, x in found.items():
        assert x.dtype == np.float64
        assert error(x, expected[key], scales[key]) <= bound, key


class TestCalls:
    @each_call
    @each_mirror
    def test_attention_on_several_devices_is_that_on_one(self, results, mirror, name, mesh, scheme):
        found, expected = of(results, mirror, name, mesh, scheme), call_on_one_device(mirror, name)
        assert found.keys() == expected.keys()
        for key, x in found.items():
            assert x.dtype == np.float64
            assert error(x, expected[key]) <= BOUND, key

    @each_call
    @each_mirror
    def test_and_what_the_oracle_says(self, results, mirror, name, mesh, scheme):
        arrays, options, _ = given(name)
        output, seen = oracle(**arrays, **options)
        found = of(results, mirror, name, mesh, scheme)
        assert error(found["output"], output) <= BOUND
        empty = ~seen.any(-1)
        assert not found["output"][empty].any()
        if name != "all keys":
            assert empty.any() == (name in ("masks", "everything"))
        if empty.any():
            assert not found["query"][empty].any()

    @each_call
    def test_both_frameworks_give_the_same(self, results, name, mesh, scheme):
        ours, theirs = (of(results, mirror, name, mesh, scheme) for mirror in MIRRORS)
        for key, x in ours.items():
            assert error(theirs[key], x) <= 2 * BOUND, key

    @pytest.mark.parametrize("control", CONTROLS)
    @each_mirror
    def test_a_ring_or_an_exchange_that_is_broken_would_be_noticed(self, results, mirror, control):
        found, expected = of(results, mirror, control), call_on_one_device(mirror, "causal")
        wrong = [key for key, x in found.items() if error(x, expected[key]) > 1e-3]
        assert {"output", "query", "key", "value"} <= {*wrong}


class TestModels:
    @each_model
    def test_a_model_on_several_devices_is_that_on_one(self, results, mirror, name, mesh):
        assert_same_model(of(results, mirror, name, mesh), model_on_one_device(name)[mirror])

    @pytest.mark.parametrize("name", MODELS)
    def test_both_frameworks_give_the_same(self, results, name):
        ours, theirs = (of(results, mirror, name, FEW_MESHES[mirror][0]) for mirror in ("torch", "jax"))
        assert_same_model(theirs, ours, 2 * BOUND)

    def test_a_step_in_the_wrong_place_would_be_noticed(self, results):
        found, expected = (
            of(results, "jax", "RotaryDecoder", "all"),
            model_on_one_device("RotaryDecoder")["jax"],
        )
        with pytest.raises(AssertionError, match="output"):
            assert_same_model(found | {"output": np.roll(found["output"], 1, axis=1)}, expected)
