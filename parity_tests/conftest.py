"""Shared by all tests: matmul precision, grouping of tests over workers, and fixtures."""

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Compilation dominates the run time, so JAX compiles with few optimisations here; `make docs` tests the default ones.
# No flag here works around XLA's known miscompilations (`attention-bridge info`): the code is right without them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false",
)

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # workers share the cores: threads of their own would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import numpy as np
import pytest

from attention_bridge.parity.comparison import pinned_precision
from attention_bridge.parity.proof import forget_compiled

TESTS_AT_ONCE = 64
_since_cleared = 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by mechanism, or else by file, so that one process reuses compiled code (`--dist loadgroup`)."""
    for item in items:
        mechanism = item.callspec.params.get("mechanism") if hasattr(item, "callspec") else None
        item.add_marker(pytest.mark.xdist_group(getattr(mechanism, "name", item.path.name)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Stop if tests are not grouped, which takes half as long again and builds one wheel in two processes at once."""
    if node.config.getoption("dist") == "loadgroup" and not all("@" in each for each in ids):
        pytest.exit(f"pytest {pytest.__version__} and this pytest-xdist do not group tests", returncode=4)


def pytest_runtest_teardown() -> None:
    """Drop compiled code after some tests: kept programs take memory, and slow each further compilation down."""
    global _since_cleared
    _since_cleared += 1
    if _since_cleared == TESTS_AT_ONCE:
        _since_cleared = 0
        forget_compiled()


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Float32 products in full float32 in either framework: no TF32, no bfloat16 passes."""
    with pinned_precision():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)


@pytest.fixture
def as_shipped() -> Iterator[None]:
    """Disable the shape checks that the tests add to every annotated function, as in a user's installation."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
