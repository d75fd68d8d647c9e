"""Every implementation of `dot_product_attention`, through the suite that holds for all."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import jax_attention.ops
import torch_attention.ops
from jax_attention.ops import dispatch, native
from parity_tests.helpers.conformance import JAX, TORCH, Conformance

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles so small that every case has several of them, and some that are not full."""
    for ops in (torch_attention.ops, jax_attention.ops):
        monkeypatch.setattr(ops.blockwise, "ROWS", 4)
        monkeypatch.setattr(ops.blockwise, "COLUMNS", 3)


class TestDefinitionInTorch(Conformance):
    mirror = TORCH
    implementation = "reference"


class TestDefinitionInJax(Conformance):
    mirror = JAX
    implementation = "reference"


class TestBlockwiseInTorch(Conformance):
    mirror = TORCH
    implementation = "blockwise"
    tiled = True


class TestBlockwiseInJax(Conformance):
    mirror = JAX
    implementation = "blockwise"
    tiled = True


class TestSdpa(Conformance):
    mirror = TORCH
    implementation = "sdpa"
    cannot = frozenset({"softcap", "sinks", "dropout"})


class TestXla(Conformance):
    mirror = JAX
    implementation = "xla"
    dtype = np.float32
    cannot = frozenset({"softcap", "sinks", "dropout", "wide values", "two batch axes"})


@pytest.mark.slow
class TestChoiceInTorch(Conformance):
    mirror = TORCH
    implementation = None


@pytest.mark.slow
class TestChoiceInJax(Conformance):
    mirror = JAX
    implementation = None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the code generator's own
class TestFlex(Conformance):
    """Compiled for each kind of call; on the CPU it has no backward pass."""

    mirror = TORCH
    implementation = "flex"
    dtype = np.float32
    backward = False
    cannot = frozenset({"sinks", "dropout", "traced offset", "vmap"})


@pytest.mark.slow
class TestSplash(Conformance):
    """TPU's kernel, interpreted; it refuses to work where JAX counts in 64 bits."""

    mirror = replace(JAX, double=nullcontext)
    implementation = "splash"
    tiled = True
    dtype = np.float32
    head_dim = 64
    cannot = frozenset(
        {"mask", "bias", "sinks", "dropout", "traced offset", "negative offset", "empty window", "vmap"}
    )

    @pytest.fixture(autouse=True)
    def interpreted(self, monkeypatch):
        """Without a TPU the kernel is interpreted, step by step."""
        interpreted = native.SPLASH._replace(run=partial(native.splash_attention, interpret=True))
        monkeypatch.setitem(dispatch.IMPLEMENTATIONS, "splash", interpreted)
