"""Sharded attention and whole models equal those on one device, forward and backward, in both frameworks.

The results on several devices are computed in separate processes by `parity_tests.helpers.sharded`. Here they are
compared with one device, with the float64 definition, and with the other framework.
"""

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.sharding
import torch_attention.sharding
from attention_bridge.catalogue import CATALOGUE, SIZES
from attention_bridge.parity.comparison import gradient_scales
from attention_bridge.parity.measure import error, tolerances
from attention_bridge.parity.run import run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.conformance import MIRRORS, oracle
from parity_tests.helpers.sharded import (
    ALONG,
    CALLED,
    CONTROLS,
    FEW_MESHES,
    HEAD_DIM,
    KEY,
    MEMORIES,
    MODELS,
    NARROW,
    PLACED,
    SOLVED,
    VIEWED,
    given,
    names,
    operands,
    weights,
)

BOUND = tolerances("float64", 1)["gradient"]
each_mirror = pytest.mark.parametrize("mirror", MIRRORS)
each_call = pytest.mark.parametrize(("name", "mesh", "scheme"), CALLED, ids=map("/".join, CALLED))
each_model = pytest.mark.parametrize(("mirror", "name", "mesh"), PLACED, ids=map("/".join, PLACED))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of every case, by framework; both frameworks run at the same time."""
    folder = tmp_path_factory.mktemp("sharded")
    running = {
        mirror: subprocess.Popen(
            [sys.executable, "-m", "parity_tests.helpers.sharded", mirror, str(folder / f"{mirror}.npz")],
            cwd=Path(__file__).parents[2],
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
    """The results of one case, by name."""
    prefix = "/".join(case) + "/"
    return {key.removeprefix(prefix): x for key, x in results[mirror].items() if key.startswith(prefix)}


@cache
def call_on_one_device(mirror, name):
    """Output and float64 gradients of a call by the definition."""
    return of_definition(mirror, *given(name))


def of_definition(mirror, arrays, options, cotangent):
    """Output and gradients by the definition, in the dtype of the arrays."""
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
    """Assert that every output and gradient is within the bound."""
    scales = gradient_scales(expected)  # for an output, its largest value
    assert found.keys() == expected.keys()
    for key, x in found.items():
        assert x.dtype == np.float64
        assert error(x, expected[key], scales[key]) <= bound, key


@pytest.mark.slow
class TestCalls:
    @each_call
    @each_mirror
    def test_sharded_attention_equals_attention_on_one_device(self, results, mirror, name, mesh, scheme):
        found, expected = of(results, mirror, name, mesh, scheme), call_on_one_device(mirror, name)
        assert found.keys() == expected.keys()
        for key, x in found.items():
            assert x.dtype == np.float64
            assert error(x, expected[key]) <= BOUND, key

    @each_call
    @each_mirror
    def test_sharded_attention_equals_the_oracle(self, results, mirror, name, mesh, scheme):
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

    @pytest.mark.parametrize(("name", "dtype"), NARROW.items())
    @each_mirror
    def test_ring_error_in_16_bits_is_within_its_bound(self, results, mirror, name, dtype):
        arrays, options, cotangent = given(name, dtype)
        found, expected = of(results, mirror, name, dtype), of_definition(mirror, arrays, options, cotangent)
        bounds = tolerances(dtype, HEAD_DIM + KEY)
        assert error(found.pop("output"), expected["output"]) <= bounds["output"]
        for key, x in found.items():
            assert error(x, expected[key]) <= bounds["gradient"], key

    @pytest.mark.parametrize("control", CONTROLS)
    @each_mirror
    def test_broken_ring_or_all_to_all_is_detected(self, results, mirror, control):
        found, expected = of(results, mirror, control), call_on_one_device(mirror, "causal")
        wrong = [key for key, x in found.items() if error(x, expected[key]) > 1e-3]
        assert {"output", "query", "key", "value"} <= {*wrong}


@pytest.mark.slow
class TestOperators:
    """DTensor of PyTorch 2.13 has faulty operators, which are replaced inside `on_mesh`."""

    @pytest.mark.parametrize(("before", "after"), VIEWED)
    def test_view_of_a_redistributed_array_equals_that_on_one_device(self, results, before, after):
        found, x = of(results, "torch", "operators", "viewed", str(before), str(after)), operands()[0]
        assert error(found["output"], np.exp(x).reshape(4, 4, 64)) <= BOUND
        assert error(found["gradient"], 2 * np.exp(2 * x)) <= BOUND

    @pytest.mark.parametrize("sides", SOLVED, ids=str)
    def test_triangular_system_is_solved_for_any_sharding(self, results, sides):
        found = of(results, "torch", "operators", "solved", *map(str, sides))
        lower, right = (torch.from_numpy(x).requires_grad_() for x in operands()[1])
        output = torch_attention.ops.solve_unit_lower(lower, right)
        output.square().sum().backward()
        for key, x in {"output": output.detach(), "lower": lower.grad, "right": right.grad}.items():
            assert error(found[key], x.numpy()) <= BOUND, key

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("axis", [1, -3])
    @pytest.mark.parametrize("name", ALONG)
    def test_operation_along_a_sharded_axis_equals_that_on_one_device(self, results, name, axis, place):
        found = of(results, "torch", "operators", name, str(axis), str(place))
        x = torch.from_numpy(operands()[0]).requires_grad_()
        output = ALONG[name](x, axis)
        output.square().sum().backward()
        assert error(found["output"], output.detach().numpy()) <= BOUND
        assert error(found["gradient"], x.grad.numpy()) <= BOUND

    @pytest.mark.parametrize("operator", ["viewed", "solved", *ALONG])
    def test_dtensor_alone_still_fails(self, results, operator):
        """When this fails, `_MENDED` of `torch_attention/sharding.py` no longer needs the operator."""
        assert results["torch"][f"operators/alone/{operator}"]


@pytest.mark.slow
class TestModels:
    @each_model
    def test_sharded_model_equals_the_model_on_one_device(self, results, mirror, name, mesh):
        assert_same_model(of(results, mirror, name, mesh), model_on_one_device(name)[mirror])

    def test_table_also_works_as_a_parallelize_module_plan(self, results):
        assert_same_model(of(results, "torch", "natively"), model_on_one_device("Decoder")["torch"])

    @pytest.mark.parametrize("name", sorted(MODELS))
    def test_both_frameworks_give_the_same(self, results, name):
        ours, theirs = (of(results, mirror, name, FEW_MESHES[mirror][0]) for mirror in ("torch", "jax"))
        assert_same_model(theirs, ours, 2 * BOUND)

    def test_shifted_output_is_detected(self, results):
        found, expected = (
            of(results, "jax", "rotary decoder", "all"),
            model_on_one_device("rotary decoder")["jax"],
        )
        with pytest.raises(AssertionError, match="output"):
            assert_same_model(found | {"output": np.roll(found["output"], 1, axis=1)}, expected)


def drawn(model):
    """A model of the JAX mirror with random weights."""
    return model.made(names("jax"), {"rngs": nnx.Rngs(0)})


def refusals(mirror):
    """The messages that each scheme raises on one device."""
    x = MIRRORS[mirror].array(np.ones((2, 3, 4, 5)))
    found = []
    for scheme in ("ring", "all_to_all"):
        with pytest.raises(NotImplementedError) as refusal:
            MIRRORS[mirror]("dot_product_attention", x, x, x, implementation=scheme)
        found.append(str(refusal.value))
    return found


@pytest.mark.slow
def test_convolutions_have_the_gradients_of_one_device():
    """Grouped convolutions too, for which XLA sums the kernel's gradient too often."""
    devices = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "parity_tests.helpers.sharded_convolutions"]
    printed = subprocess.run(
        command, env=devices, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(printed) == 30
    for line in printed:
        assert float(line.partition("|")[0]) < 1e-12, line


@pytest.mark.survey
@pytest.mark.parametrize(
    ("axis", "count"), [("data", SIZES["batch"]), ("model", SIZES["heads"]), ("sequence", SIZES["query"])]
)
def test_every_sharded_mechanism_equals_that_on_one_device(axis, count):
    """In PyTorch, with one device per element of the sharded axis."""
    command = [sys.executable, "-m", "parity_tests.helpers.sharded_catalogue", axis, str(count)]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    found = dict(line.split(" | ") for line in printed.stdout.splitlines())
    assert found.keys() == {each.name for each in CATALOGUE}
    wrong = {name: said for name, said in found.items() if not (said[0].isdigit() and float(said) <= BOUND)}
    assert not wrong


PARTED = {f"{name}_proj" for name in ("q", "k", "v", "q_b", "kv_b", "out", "gate", "up", "down")}


class TestPlaces:
    def test_ring_on_one_device_raises_the_same_error_in_both(self):
        ours, theirs = map(refusals, MIRRORS)
        assert ours == theirs
        assert ours[0] == (
            "ring attention needs both lengths sharded evenly over several devices, got lengths 4 and 4"
        )

    @pytest.mark.parametrize("axis", ["data", "rows"])
    def test_axes_of_other_names_are_left_to_the_compiler(self, axis):
        query, key, value = (np.ones((2, 3, 4, 5), np.float32),) * 3
        with jax_attention.sharding.on_mesh(jax_attention.sharding.make_mesh({axis: 1})):
            program = jax.make_jaxpr(jax_attention.dot_product_attention)(query, key, value)
        assert ("shard_map" in str(program)) == (axis == "data")

    def test_both_tables_are_the_same(self):
        ours = [(end.replace("weight", "kernel"), axes[::-1]) for end, axes in torch_attention.sharding.TABLE]
        assert ours == [(end, tuple(spec)) for end, spec in jax_attention.sharding.TABLE]

    def test_every_mechanism_with_a_state_is_among_the_layers(self):
        assert {each.name for each in CATALOGUE if each.decoding == "state"} == MEMORIES.keys()

    def test_table_finds_the_layers_of_every_model(self):
        mesh = jax_attention.sharding.make_mesh({"model": 1})
        for name in MODELS.keys() - MEMORIES.keys():
            model = MODELS[name]
            made = nnx.eval_shape(partial(drawn, model))
            where = jax_attention.sharding.placements(made, mesh)
            shared = {path.split(".")[-2] for path, place in where.items() if tuple(place.spec)}
            assert {"out_proj", "up_proj", "down_proj"} <= shared, name
            assert shared <= PARTED, name
            assert {"q_proj", "k_proj", "v_proj"} <= shared or {"q_b_proj", "kv_b_proj"} <= shared, name
