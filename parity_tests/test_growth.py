"""No mechanism's cost grows faster than its paper says: operations and memory, counted and not measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge.catalogue import CATALOGUE, GROWTHS, Mechanism, select
from benchmarks.counting import jax_cost, peak_bytes, torch_cost
from benchmarks.growth import LENGTHS, growth, growths, jax_program, page, power

SLACK = 0.1  # what is left of lower powers between these lengths, and of tiles that are filled up
CHEAPER = [mechanism for mechanism in CATALOGUE if mechanism.growth != "n²"]
PATTERNS = [mechanism for mechanism in CHEAPER if mechanism.family == "patterns"]
CHUNKED = ("linear", "low_rank", "sparse")  # many steps, each in Python
SHORT = (512, 1024)  # of what makes all pairs


def named(mechanisms: list[Mechanism]):
    return pytest.mark.parametrize("mechanism", mechanisms, ids=lambda mechanism: mechanism.name)


@named([mechanism for mechanism in CHEAPER if mechanism.family not in CHUNKED])
def test_cost_in_torch_grows_no_faster_than_the_paper_says(mechanism):
    found, most = growth(mechanism, "torch"), GROWTHS[mechanism.growth] + SLACK
    assert max(found.operations, found.memory) < most, found


@named(PATTERNS)
def test_memory_of_patterns_in_jax_is_linear(mechanism):
    peaks = []
    for length in LENGTHS:
        program, given = jax_program(mechanism, length)
        peaks.append(peak_bytes(jax.make_jaxpr(program)(*given).jaxpr))
    assert power(*peaks, LENGTHS) < GROWTHS[mechanism.growth] + SLACK


@pytest.mark.survey
@pytest.mark.parametrize("framework", ["torch", "jax"])
@named(list(CATALOGUE))
def test_cost_grows_no_faster_than_the_paper_says(mechanism, framework):
    found = growth(mechanism, framework, LENGTHS if mechanism in CHEAPER else SHORT)
    most = GROWTHS[mechanism.growth] + SLACK
    if framework == "jax" and mechanism not in CHEAPER:
        most += 0.2  # the shorter one is a single tile
    assert max(found.operations, found.memory) < most, found


def test_products_and_numbers_made_are_counted_alike_in_both_frameworks():
    x, y = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    made = 3 * 7
    ours = torch_cost(lambda: torch.from_numpy(x) @ torch.from_numpy(y))
    theirs = jax_cost(lambda x, y: x @ y, jnp.asarray(x), jnp.asarray(y))
    assert ours.operations == theirs.operations == made * 5 + made
    assert ours.peak_bytes == theirs.peak_bytes == 4 * made


def test_memory_that_is_free_again_does_not_count_twice():
    x = torch.ones(100)

    def program():
        y = x + 1.0
        z = y.sum()
        del y
        return z + (x + 2.0).sum()

    assert 400 <= torch_cost(program).peak_bytes < 500

    def compiled(x):
        return (x + 1.0).sum() + (x + 2.0).sum()

    assert jax_cost(compiled, jnp.ones(100)).peak_bytes < 900


def test_a_loop_whose_end_depends_on_numbers_counts_as_often_as_it_runs():
    def program(x, times):
        return jax.lax.fori_loop(0, times, lambda i, x: 2.0 * x, x)

    few, many = (jax_cost(program, jnp.ones(100), jnp.asarray(times)).operations for times in (1, 11))
    assert many - few >= 1000


def test_the_page_has_a_line_for_each_framework():
    lines = list(growths(select(["LearnedEmbedding"]), timed=True))
    assert [line.framework for line in lines] == ["torch", "jax"]
    assert page(lines).count("LearnedEmbedding") == 2
