"""The shared conformance suite on every implementation of `dot_product_attention`."""

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
    """Set small tiles, so that every case has several tiles, some of them partial."""
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
@pytest.mark.filterwarnings("ignore")  # raised inside the code generator
class TestFlex(Conformance):
    """Compiled for each kind of call; it has no backward pass on the CPU."""

    mirror = TORCH
    implementation = "flex"
    dtype = np.float32
    backward = False
    cannot = frozenset({"sinks", "dropout", "traced offset", "vmap"})


@pytest.mark.slow
class TestSplash(Conformance):
    """The TPU kernel, interpreted; it raises where JAX uses 64-bit integers."""

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
        """Without a TPU, interpret the kernel."""
        interpreted = native.SPLASH._replace(run=partial(native.splash_attention, interpret=True))
        monkeypatch.setitem(dispatch.IMPLEMENTATIONS, "splash", interpreted)
