"""Test helpers: bad input raises the same error in both mirrors, before any arithmetic."""

import inspect
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.utils._python_dispatch import TorchDispatchMode

import jax_attention
import jax_attention.feed_forward
import jax_attention.layers
import jax_attention.models
import jax_attention.ops
import torch_attention
import torch_attention.feed_forward
import torch_attention.layers
import torch_attention.models
import torch_attention.ops


class NothingRuns(TorchDispatchMode):
    """Allow only view operations of PyTorch."""

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        assert operation.is_view, f"{operation} ran before the input was checked"
        return operation(*arguments, **keywords or {})


class Mirror:
    """One mirror, with modules and inputs made in the same way in both.

    Floating-point inputs are all NaN, and JAX raises for NaN results, so that no arithmetic on them goes undetected. In
    PyTorch only views may run.
    """

    def __init__(self, package, array, build, nothing_runs):
        self.package, self.array, self.build, self.nothing_runs = package, array, build, nothing_runs
        names = [package, package.feed_forward, package.layers, package.models, package.ops]
        self.names = SimpleNamespace(**{k: v for module in names for k, v in vars(module).items()})

    def __getattr__(self, name):
        """A name of the mirror; module classes need no `rngs`."""
        found = getattr(self.names, name)
        return self.build(found) if inspect.isclass(found) else found

    def nan(self, *shape):
        return self.array(np.full(shape, np.nan, np.float32))

    def ones(self, *shape, dtype=bool):
        return self.array(np.ones(shape, dtype))


def with_rngs(found):
    """The class, with `rngs` if it takes them."""
    return (
        partial(found, rngs=nnx.Rngs(0)) if "rngs" in inspect.signature(found.__init__).parameters else found
    )


MIRRORS = {
    "torch": Mirror(torch_attention, torch.from_numpy, lambda found: found, NothingRuns),
    "jax": Mirror(jax_attention, jnp.asarray, with_rngs, partial(jax.debug_nans, True)),
}


class Case(NamedTuple):
    """A call that must raise: `call` makes modules and inputs and returns the callable to test."""

    name: str
    call: Callable[[Any], Callable[[], Any]]
    exception: type[Exception]
    text: str


def assert_refused(case: Case) -> None:
    """Assert that both mirrors raise the same error with the same text, before any computation."""
    for mirror in MIRRORS.values():
        call = case.call(mirror)
        with mirror.nothing_runs(), pytest.raises(case.exception) as refusal:
            call()
        assert type(refusal.value) is case.exception
        assert str(refusal.value) == case.text


def assert_impossible(case: Case) -> None:
    """Assert that the constructor raises the same error with the same text in both mirrors."""
    for mirror in MIRRORS.values():
        with pytest.raises(case.exception) as refusal:
            case.call(mirror)()
        assert type(refusal.value) is case.exception
        assert str(refusal.value) == case.text
