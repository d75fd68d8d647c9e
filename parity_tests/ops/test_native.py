"""The frameworks' own kernels: those that need a compiler or another device, as far as the CPU can run them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention.ops
import torch_attention.ops
from attention_bridge.parity.comparison import tolerances
from jax_attention.ops import native
from jax_attention.ops.call import checked_call
from torch_attention import layers

pytestmark = pytest.mark.slow


def draw(rng, *shapes):
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def error(found, expected):
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())


# Options, the number of keys where it differs from the number of queries, and the sizes of a key and of a value.
SPLASHED = {
    "causal": ({"is_causal": True}, 200, (64, 64)),
    "window": ({"is_causal": True, "window": 50}, 200, (64, 64)),
    "softcap": ({"softcap": 3.0}, 200, (64, 64)),
    "an offset": ({"is_causal": True, "query_offset": 70}, 270, (64, 64)),
    "an offset and a window": ({"is_causal": True, "query_offset": 70, "window": 90}, 270, (64, 64)),
    "a window of two": ({"is_causal": True, "window": 2}, 200, (64, 64)),
    "a window of a tile and one, and a softcap": (
        {"is_causal": True, "window": 129, "softcap": 3.0},
        200,
        (64, 64),
    ),
    "more keys than fill tiles": ({}, 333, (64, 64)),
    "fewer keys than queries": ({"is_causal": True}, 131, (64, 64)),
    "wide heads and narrow values": ({"is_causal": True}, 200, (128, 24)),
    "narrow heads and wide values": ({"is_causal": True, "window": 70}, 200, (64, 136)),
}


class TestSplash:
    """The TPU kernel, interpreted."""

    @pytest.mark.parametrize(("options", "key_len", "dims"), SPLASHED.values(), ids=SPLASHED)
    def test_splash_equals_the_definition_forward_and_backward(self, options, key_len, dims, rng):
        head_dim, value_dim = dims
        shapes = (2, 4, 200, head_dim), (2, 2, key_len, head_dim), (2, 2, key_len, value_dim)
        query, key, value = map(jnp.asarray, draw(rng, *shapes))
        call = checked_call(query, key, value, scale=0.125, **options)
        assert native.splash_refusal(call) is None

        def splash(query, key, value):
            return native.splash_attention(call._replace(query=query, key=key, value=value), interpret=True)

        def definition(query, key, value):
            return jax_attention.ops.dot_product_attention(
                query, key, value, scale=0.125, **options, implementation="reference"
            )

        def gradients(function):
            return jax.grad(lambda *x: (function(*x) ** 2).sum(), (0, 1, 2))(query, key, value)

        bounds = tolerances("float32", head_dim + key_len)
        assert error(splash(query, key, value), definition(query, key, value)) <= bounds["output"]
        for found, expected in zip(gradients(splash), gradients(definition), strict=True):
            assert error(found, expected) <= bounds["gradient"]

    @pytest.mark.parametrize("window", [None, 129])
    def test_bfloat16_error_is_within_one_rounding_per_weight(self, window, rng):
        shapes = (2, 4, 200, 64), (2, 2, 200, 64), (2, 2, 200, 64)
        given = [jnp.asarray(x, jnp.bfloat16) for x in draw(rng, *shapes)]
        options = {"is_causal": True, "window": window}
        call = checked_call(*given, scale=0.125, **options)
        with jax.default_matmul_precision("default"):
            assert native.splash_refusal(call) is None
            found = native.splash_attention(call, interpret=True)
        exact = jax_attention.ops.dot_product_attention(
            *(x.astype(jnp.float32) for x in given), **options, implementation="reference"
        )
        assert found.dtype == jnp.bfloat16
        # Scaled queries, weights and output are each rounded to 8 bits: three times 2^-8 of the largest value.
        assert error(found.astype(jnp.float32), exact) <= 3 * 2.0**-8
        assert error(found.astype(jnp.float32), exact) > 0

    def test_bfloat16_products_of_several_passes_raise(self):
        query = jnp.zeros((1, 2, 8, 64), jnp.bfloat16)
        with pytest.raises(NotImplementedError) as refusal:
            jax_attention.ops.dot_product_attention(query, query, query, implementation="splash")
        assert str(refusal.value) == (
            "splash attention multiplies bfloat16 in one pass, got jax_default_matmul_precision=highest"
        )

    def test_unsupported_options_raise_one_sentence(self, rng):
        query, mask = jnp.zeros((1, 2, 8, 64)), jnp.ones((8, 8), bool)
        for options, sentence in (
            ({"mask": mask}, "splash attention takes no bias and no mask beyond is_causal and window"),
            ({"sinks": jnp.zeros(2)}, "splash attention has no sinks"),
        ):
            with pytest.raises(NotImplementedError) as refusal:
                jax_attention.ops.dot_product_attention(
                    query, query, query, **options, implementation="splash"
                )
            assert str(refusal.value) == sentence


@pytest.mark.filterwarnings("ignore")  # raised inside the code generator
class TestFlex:
    """PyTorch's compiled kernel; it has no backward pass on the CPU."""

    def options(self, rng):
        return {
            "window": {"is_causal": True, "window": 9},
            "offset": {"is_causal": True, "query_offset": 4},
            "softcap": {"softcap": 2.0},
            "bias and mask": {
                "bias": torch.from_numpy(*draw(rng, (1, 6, 1, 53))),
                "mask": torch.from_numpy(rng.random((2, 1, 37, 53)) < 0.5),
            },
        }

    @pytest.mark.parametrize("name", ["window", "offset", "softcap", "bias and mask"])
    def test_flex_equals_the_definition(self, name, rng):
        given = [torch.from_numpy(x) for x in draw(rng, (2, 6, 37, 16), *[(2, 3, 53, 16)] * 2)]
        options = self.options(rng)[name]
        found, expected = (
            torch_attention.ops.dot_product_attention(*given, **options, implementation=each)
            for each in ("flex", "reference")
        )
        assert error(found, expected) <= tolerances("float32", 16 + 53)["output"]

    def test_unsupported_options_raise_one_sentence(self):
        query = torch.zeros(1, 2, 8, 16, requires_grad=True)
        with pytest.raises(NotImplementedError) as refusal:
            torch_attention.ops.dot_product_attention(query, query, query, implementation="flex")
        assert str(refusal.value) == "flex attention has no backward pass on the CPU"


class TestFewRows:
    """Linear layers on few rows, whose weight is split over all threads."""

    @pytest.mark.parametrize("outputs", [520, 523])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("batch", [(), (1,), (2, 3), (33,), (0,)])
    def test_few_rows_equal_the_product(self, outputs, bias, batch, rng):
        layer = layers.linear(257, outputs, bias=bias)
        if bias:
            torch.nn.init.normal_(layer.bias)
        (x,) = map(torch.from_numpy, draw(rng, (*batch, 257)))
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
        with torch.no_grad():
            found = layer(x)
        assert found.shape == expected.shape
        assert torch.equal(layer(x), expected)
        if x.numel():
            assert error(found, expected.detach()) <= 4 * 2.0**-24 * 257**0.5


class TestBands:
    """A window through PyTorch's fused kernel, one band of queries after the other."""

    @pytest.mark.parametrize(("length", "window"), [(1000, 100), (1025, 2), (1300, 257)])
    def test_bands_equal_the_window(self, length, window, rng):
        arrays = draw(rng, (1, 4, length, 16), *[(1, 2, length, 16)] * 2)
        given = [torch.from_numpy(x).requires_grad_() for x in arrays]
        options = {"is_causal": True, "window": window}
        runs = []
        for each in ("sdpa", "reference"):
            output = torch_attention.ops.dot_product_attention(*given, **options, implementation=each)
            runs.append([output.detach(), *torch.autograd.grad((output**2).sum(), given)])
        bounds = tolerances("float32", 16 + window)
        for i, (found, expected) in enumerate(zip(*runs, strict=True)):
            assert error(found, expected) <= bounds["gradient" if i else "output"]
