"""Activation functions and norms against NumPy in float64, with their gradients, in both frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy.special import erf, expit

import jax_attention.activations
import jax_attention.norms
import torch_attention.activations
import torch_attention.norms
from attention_bridge.parity.comparison import error

BATCH, LENGTH, DIM, EPS = 2, 5, 7, 0.1
CLOSE = 1e-12  # of float64

EXPECTED = {
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * expit(1.702 * x),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
}


def layer_norm(x, weight, bias):
    """Normalise by mean and biased variance."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * weight + bias


def rms_norm(x, weight, bias):
    """Normalise by the mean square."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


def slopes(function, x, step=1e-6):
    """Central differences of the sum of an elementwise function."""
    return (function(x + step) - function(x - step)) / (2 * step)


def gradient(function, x):
    """The gradient of the sum of the outputs, by all axes of x, with central differences."""
    found, step = np.empty_like(x), 1e-6
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        found[index] = (function(above) - function(below)).sum() / (2 * step)
    return found


def test_every_activation_has_a_reference():
    assert EXPECTED.keys() == torch_attention.activations.ACTIVATIONS.keys()
    assert EXPECTED.keys() == jax_attention.activations.ACTIVATIONS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_activation_and_its_gradient(rng, name):
    x = 2.0 * rng.standard_normal((BATCH, LENGTH, DIM))
    given = torch.tensor(x, requires_grad=True)
    found = torch_attention.activations.ACTIVATIONS[name](given)
    found.sum().backward()
    assert error(found.detach().numpy(), EXPECTED[name](x)) < CLOSE
    assert error(given.grad.numpy(), slopes(EXPECTED[name], x)) < 1e-8
    with jax.enable_x64(True):
        activation = jax_attention.activations.ACTIVATIONS[name]
        assert error(np.asarray(activation(jnp.asarray(x))), EXPECTED[name](x)) < CLOSE
        slope = jax.grad(lambda x: activation(x).sum())(jnp.asarray(x))
        assert error(np.asarray(slope), slopes(EXPECTED[name], x)) < 1e-8


@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norm_and_its_gradient(rng, name, unit_offset):
    """With a unit offset, the factor is one more than the stored scale."""
    x, weight, bias = (rng.standard_normal(shape) for shape in ((BATCH, LENGTH, DIM), DIM, DIM))
    factor = weight + 1 if unit_offset else weight

    def expected(x):
        return {"layer_norm": layer_norm, "rms_norm": rms_norm}[name](x, factor, bias)

    weights = {"weight": weight, "bias": bias} if name == "layer_norm" else {"weight": weight}
    made = getattr(torch_attention.norms, name)
    norm = made(DIM, eps=EPS, unit_offset=unit_offset, dtype=torch.float64, device=None)
    norm.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    given = torch.tensor(x, requires_grad=True)
    found = norm(given)
    found.sum().backward()
    assert error(found.detach().numpy(), expected(x)) < CLOSE
    assert error(given.grad.numpy(), gradient(expected, x)) < 1e-7
    with jax.enable_x64(True):
        made = getattr(jax_attention.norms, name)
        factory = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64, "dtype": None}
        norm = made(DIM, eps=EPS, unit_offset=unit_offset, **factory)
        for key, value in weights.items():
            getattr(norm, {"weight": "scale"}.get(key, key))[...] = jnp.asarray(value)
        assert error(np.asarray(norm(jnp.asarray(x))), expected(x)) < CLOSE
        slope = jax.grad(lambda x: norm(x).sum())(jnp.asarray(x))
        assert error(np.asarray(slope), gradient(expected, x)) < 1e-7


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_new_norm_with_a_unit_offset_changes_no_scale(name):
    x = np.linspace(-1.0, 2.0, DIM, dtype=np.float32)
    for unit_offset in (False, True):
        norm = getattr(torch_attention.norms, name)(
            DIM, eps=EPS, unit_offset=unit_offset, device=None, dtype=None
        )
        found = norm(torch.tensor(x)).detach().numpy()
        factory = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float32, "dtype": None}
        other = getattr(jax_attention.norms, name)(DIM, eps=EPS, unit_offset=unit_offset, **factory)(
            jnp.asarray(x)
        )
        expected = {"layer_norm": layer_norm, "rms_norm": rms_norm}[name](x.astype(np.float64), 1.0, 0.0)
        assert error(found, expected) < 1e-6
        assert error(np.asarray(other), expected) < 1e-6
