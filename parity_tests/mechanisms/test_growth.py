"""Cost of each mechanism grows no faster than its paper says: counted operations and memory, not measurements."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge.catalogue import CATALOGUE, Mechanism, select
from benchmarks.counting import jax_cost, torch_cost
from benchmarks.growth import Growth, Measured, growth, page
from benchmarks.lengths import uses

SAMPLE = select(
    [
        "LongformerAttention",
        "BigBirdAttention",
        "ChunkedAttention",
        "StreamingAttention",
        "LinformerAttention",
    ]
)


def named(mechanisms: list[Mechanism]):
    return pytest.mark.parametrize("mechanism", mechanisms, ids=lambda mechanism: mechanism.name)


@named(SAMPLE)
def test_cost_in_torch_grows_no_faster_than_the_paper_says(mechanism):
    assert growth(mechanism, "torch").faster == []


@named(SAMPLE[2:])
def test_cost_in_jax_grows_no_faster_than_the_paper_says(mechanism):
    chosen = tuple(use for use in uses(mechanism) if use.name in ("backward", "dropout mask"))
    assert growth(mechanism, "jax", chosen).faster == []


@pytest.mark.survey
@pytest.mark.parametrize("framework", ["torch", "jax"])
@named(list(CATALOGUE))
def test_cost_grows_no_faster_than_the_paper_says(mechanism, framework):
    assert growth(mechanism, framework).faster == []


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_quadratic_mechanism_declared_linear_is_detected(framework):
    liar = replace(*select(["SigmoidAttention"]), growth="n")
    found = growth(liar, framework, uses(liar)[:1]).faster
    assert found == ["operations of forward", "memory of forward"]


def test_figures_that_grow_faster_than_the_paper_are_marked():
    short, linear, quadratic = Measured(0.01, 10**7), Measured(0.08, 8 * 10**7), Measured(0.6, 64 * 10**7)
    line = Growth("A", "n", "torch", {"forward": 1.0}, {"forward": 1.3}, (1024, 8192))
    assert line.faster == ["memory of forward"]
    line = line._replace(memory={"forward": 1.0}, forward=(short, linear), backward=(short, quadratic))
    assert line.faster == ["time of backward", "measured memory of backward"]
    assert line._replace(backward=(short, linear)).faster == []
    assert line._replace(slowness=(1.0, 6.0)).faster == ["measured memory of backward"]
    text = page([line, line._replace(mechanism="B", backward=(short, linear))])
    assert "Marked: A." in text
    assert text.count("time of backward") == 1
    assert "| 80.0 | n^1.00 | 10.0 → 80.0 | 1.0× |" in text


def test_operations_and_bytes_are_counted_alike_in_both_frameworks():
    x, y = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    made = 3 * 7
    ours = torch_cost(lambda: torch.from_numpy(x) @ torch.from_numpy(y))
    theirs = jax_cost(lambda x, y: x @ y, jnp.asarray(x), jnp.asarray(y))
    assert ours.operations == theirs.operations == made * 5 + made
    assert ours.peak_bytes == theirs.peak_bytes == 4 * made


def test_freed_memory_does_not_count_twice():
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


def test_loop_with_a_traced_end_counts_its_actual_steps():
    def program(x, times):
        return jax.lax.fori_loop(0, times, lambda i, x: 2.0 * x, x)

    few, many = (jax_cost(program, jnp.ones(100), jnp.asarray(times)).operations for times in (1, 11))
    assert many - few >= 1000


def test_gradients_of_fused_attention_count_their_own_queries():
    query, key = torch.ones(1, 1, 10, 4, requires_grad=True), torch.ones(1, 1, 1000, 4)

    def program():
        with torch.enable_grad():
            torch.nn.functional.scaled_dot_product_attention(query, key, key).sum().backward()

    assert torch_cost(program).operations < 10 * 1000 * 4 * 10
