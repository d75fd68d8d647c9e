"""`compare` and `assert_parity` on outputs of any kind: nested structures, integers, zeros, underflow."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.parity.comparison import assert_parity
from attention_bridge.parity.measure import error

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
Made = Callable[[Any], Any]


class InTorch(torch.nn.Module):
    """A weight, and any function of its product with the input."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.arange(1.0, 5.0))
        self.made = made

    def forward(self, x: torch.Tensor) -> Any:
        return self.made(x * self.w)


class InJAX(nnx.Module):
    """The same module in JAX."""

    def __init__(self, made: Made) -> None:
        self.w = nnx.Param(jnp.arange(1.0, 5.0))
        self.made = made

    def __call__(self, x: Any) -> Any:
        return self.made(x * self.w[...])


EQUAL: dict[str, tuple[Made, Made]] = {
    "nested": (lambda y: {"a": y, "b": [2 * y, (y > 0, 3, None)]},) * 2,
    "integers": (lambda y: (y, (y > 0).sum(-1)),) * 2,
    "no float": (lambda y: y > 0,) * 2,
    "zeros": (lambda y: 0 * y,) * 2,
    "underflow": (lambda y: y * 1e-20 * 1e-20,) * 2,
}
DIFFERENT: dict[str, tuple[Made, Made, str]] = {
    "in a dict": (lambda y: {"a": y, "b": y}, lambda y: {"a": y, "b": 1.001 * y}, "output.b"),
    "in a list": (lambda y: [y, y], lambda y: [y, 1.001 * y], "output.1"),
    "integers": (
        lambda y: (y, 10**7 + (y > 0).sum(-1)),
        lambda y: (y, 10**7 + 1 + (y > 0).sum(-1)),
        "output.1",
    ),
    "booleans": (lambda y: (y, y > 0), lambda y: (y, y < 0), "output.1"),
    "numbers": (lambda y: (y, 3), lambda y: (y, 4), "output.1"),
    "zero": (lambda y: (y, 0 * y), lambda y: (y, 0 * y + 1e-8), "output.1"),
    "tiny": (lambda y: 1e-20 * y, lambda y: 1.001e-20 * y, "output"),
    "shape": (lambda y: y[:1], lambda y: y[0], "output"),
    "detached": (lambda y: y.detach(), lambda y: y, "x"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_outputs_of_any_structure_pass(name: str) -> None:
    ours, theirs = EQUAL[name]
    assert_parity(InTorch(ours), InJAX(theirs), X)


@pytest.mark.parametrize("name", DIFFERENT)
def test_difference_in_any_structure_is_named(name: str) -> None:
    ours, theirs, where = DIFFERENT[name]
    with pytest.raises(AssertionError, match=f"^(output|gradient) `{where}` differs"):
        assert_parity(InTorch(ours), InJAX(theirs), X)


@pytest.mark.parametrize(
    ("made", "kind", "sentence"),
    [
        (lambda y: None, ValueError, "both modules must return at least one array or number, got none"),
        (lambda y: (y, "a"), TypeError, r"output\.1 must be a real array, a number, None, or .*, got str"),
        (lambda y: 1j * y, TypeError, "output must be a real array, .*, got torch.complex64"),
    ],
)
def test_output_that_cannot_be_compared_raises(made: Made, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=f"^{sentence}$"):
        assert_parity(InTorch(made), InJAX(made), X)


def test_error_is_never_relative_to_zero() -> None:
    zeros = np.zeros(3)
    assert error(zeros.astype(np.float32), zeros) == 0
    assert error(np.full(3, 1e-8, np.float32), zeros) == np.inf
    assert error(np.full(3, 1e-39, np.float32), zeros) == 0
    assert error(np.full(3, 1e-39), zeros) == np.inf
    assert error(np.array([1.0, np.inf, 0.0]), np.array([1.0, np.inf, 0.0])) == np.inf
