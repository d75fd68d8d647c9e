"""`compare` and `assert_parity`: accepted modules and inputs, differences found and named, and bad input."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, Mechanism
from attention_bridge.errors import PlatformError
from attention_bridge.parity.comparison import (
    UNIT_ROUNDOFF,
    Difference,
    assert_parity,
    compare,
    error,
    pinned_precision,
    same_bits,
    summed_terms,
    tolerances,
)
from attention_bridge.parity.measure import SMALL, coarse_tolerance
from attention_bridge.parity.proof import prove_case
from attention_bridge.parity.run import named_outputs, on_platform
from attention_bridge.weights import transfer
from jax_attention import cross_attention as jax_cross
from jax_attention import models as jax_models
from torch_attention import cross_attention as torch_cross
from torch_attention import models as torch_models

BATCH, HEADS, LENGTH, MEMORY, EMBED, FFN, VOCAB, MAX_LEN = 2, 3, 5, 7, 12, 13, 17, 11
HEADS_OF = {"embed_dim": EMBED, "num_heads": HEADS}
ENCODER = {**HEADS_OF, "vocab_size": VOCAB, "num_layers": 2, "ffn_dim": FFN, "max_len": MAX_LEN}
DROPOUT = 0.5
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda x: x,
    "torch": torch.from_numpy,
    "jax": jnp.asarray,
}


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(
            parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.4, generator=generator
        )
    return module.eval()


def heads_pair(dtype: str = "float32", **options: Any) -> tuple[torch.nn.Module, nnx.Module]:
    ours = randomised(
        torch_attention.MultiHeadSelfAttention(**HEADS_OF, dtype=getattr(torch, dtype), **options)
    )
    with jax.enable_x64(dtype == "float64"):
        theirs = jax_attention.MultiHeadSelfAttention(
            **HEADS_OF, rngs=nnx.Rngs(0), param_dtype=dtype, **options
        )
        theirs.eval()
        return ours, transfer(ours, theirs)


def decoder_pair(**options: Any) -> tuple[torch.nn.Module, nnx.Module]:
    arguments = {**HEADS_OF, "ffn_dim": FFN, "activation": "gelu_tanh", **options}
    ours = randomised(torch_attention.EncoderDecoderAttention(**arguments))
    theirs = jax_attention.EncoderDecoderAttention(**arguments, rngs=nnx.Rngs(0))
    theirs.eval()
    return ours, transfer(ours, theirs)


def encoder_pair(dtype: str = "float32", **options: Any) -> tuple[torch.nn.Module, nnx.Module]:
    config = {**ENCODER, **options}
    ours = randomised(torch_models.Encoder(torch_models.EncoderConfig(**config), dtype=getattr(torch, dtype)))
    with jax.enable_x64(dtype == "float64"):
        theirs = jax_models.Encoder(jax_models.EncoderConfig(**config), rngs=nnx.Rngs(0), param_dtype=dtype)
        theirs.eval()
        return ours, transfer(ours, theirs)


def transpose_kernel(linear: nnx.Linear) -> None:
    linear.kernel[...] = linear.kernel[...].T


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((BATCH, LENGTH, EMBED)).astype(np.float32)


@pytest.fixture
def memory(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((BATCH, MEMORY, EMBED)).astype(np.float32)


@pytest.fixture
def tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    mask = rng.random((BATCH, HEADS, LENGTH, LENGTH)) < 0.7
    mask[1, 2, 3] = False
    return mask


class TestOurModules:
    @pytest.mark.parametrize("kind", KINDS)
    def test_equal_weights_and_inputs_of_any_framework_pass(
        self, kind: str, x: np.ndarray, mask: np.ndarray
    ) -> None:
        given = KINDS[kind]
        assert_parity(*heads_pair(), given(x), mask=given(mask))

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
    def test_every_dtype_has_its_own_bound(self, dtype: str, x: np.ndarray) -> None:
        ours, theirs = heads_pair(dtype)
        given = x.astype(getattr(ml_dtypes, dtype, dtype))
        found = compare(ours, theirs, given)
        assert all(difference.ok for difference in found), "\n".join(map(str, found))
        bounds = tolerances(dtype, summed_terms(dict.fromkeys("qkvo", np.empty((EMBED, EMBED))), {"x": x}))
        if dtype == "bfloat16":
            for kind in bounds:
                bounds[kind] = coarse_tolerance(dtype, max(d.torch_err for d in found if d.kind == kind))
        assert {d.kind: d.tolerance for d in found} == bounds
        # The errors have the precision of this dtype: nothing was rounded to a coarser one. In float64 the reference
        # rounds as the modules do.
        roundings = 2 if dtype == "float64" else 1
        assert max(d.jax_err for d in found) < 20 * roundings * UNIT_ROUNDOFF[dtype]

    def test_outputs_precede_gradients_of_inputs_and_parameters(self, x: np.ndarray) -> None:
        ours, theirs = heads_pair()
        found = compare(ours, theirs, x)
        assert [d.name for d in found if d.kind == "output"] == ["output", "weights"]
        assert [d.name for d in found if d.kind == "gradient"] == ["x", *dict(ours.named_parameters())]
        assert [d.kind for d in found] == sorted((d.kind for d in found), reverse=True)

    @pytest.mark.slow
    def test_two_inputs_and_values_that_are_no_arrays_are_passed_on(
        self, x: np.ndarray, memory: np.ndarray
    ) -> None:
        ours, theirs = decoder_pair()
        memory_mask = np.random.default_rng(1).random((BATCH, LENGTH, MEMORY)) < 0.7
        assert_parity(ours, theirs, x, memory, memory_mask=memory_mask)
        found = compare(ours, theirs, x, memory=memory, need_weights=False)
        assert [d.name for d in found if d.kind == "output"] == ["output"]
        assert all(d.ok for d in found), "\n".join(map(str, found))

    @pytest.mark.slow
    def test_integer_inputs_and_tuples_of_outputs_are_measured(
        self, tokens: np.ndarray, mask: np.ndarray
    ) -> None:
        found = compare(*encoder_pair(), tokens, mask, need_weights=True)
        assert all(d.ok for d in found), "\n".join(map(str, found))
        assert [d.name for d in found if d.kind == "output"] == ["output", "pooled", "weights.0", "weights.1"]
        assert "tokens" not in [d.name for d in found]

    def test_key_bias_with_zero_gradient_passes(self, x: np.ndarray) -> None:
        ours, theirs = heads_pair()
        gradient = next(d for d in compare(ours, theirs, x) if d.name == "k_proj.bias")
        assert gradient.ok
        output, _ = ours(torch.from_numpy(x))
        output.sum().backward()
        assert ours.k_proj.bias.grad.abs().max() < 1e-5 * ours.v_proj.bias.grad.abs().max()


class TestModulesOfAUser:
    class TorchStack(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(EMBED, FFN)
            self.down = torch.nn.Linear(FFN, EMBED, bias=False)

        def forward(self, hidden: torch.Tensor, slope: float = 1.0) -> torch.Tensor:
            return self.down(torch.tanh(slope * self.up(hidden)))

    class JaxStack(nnx.Module):
        def __init__(self) -> None:
            self.up = nnx.Linear(EMBED, FFN, rngs=nnx.Rngs(0))
            self.down = nnx.Linear(FFN, EMBED, use_bias=False, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array, slope: float = 1.0) -> jax.Array:
            return self.down(jnp.tanh(slope * self.up(x)))

    def pair(self) -> tuple[torch.nn.Module, nnx.Module]:
        ours = self.TorchStack()
        return ours, transfer(ours, self.JaxStack())

    def test_equal_attribute_paths_suffice_and_argument_names_may_differ(self, x: np.ndarray) -> None:
        found = compare(*self.pair(), x, slope=0.7)
        assert all(d.ok for d in found), "\n".join(map(str, found))
        assert [d.name for d in found] == ["output", "hidden", "up.weight", "up.bias", "down.weight"]

    def test_difference_is_found_and_located(self, x: np.ndarray) -> None:
        ours, theirs = self.pair()
        theirs.down.kernel[...] = theirs.down.kernel[...] * 1.001
        with pytest.raises(
            AssertionError, match=r"output `output` differs, first in submodule `down \(output\)`"
        ):
            assert_parity(ours, theirs, x)

    def test_single_layers_of_each_framework_can_be_compared(self, x: np.ndarray) -> None:
        ours = torch.nn.Linear(EMBED, FFN)
        assert_parity(ours, transfer(ours, nnx.Linear(EMBED, FFN, rngs=nnx.Rngs(0))), x)

    def test_frozen_parameters_tracked_inputs_and_no_grad_do_not_matter(self, x: np.ndarray) -> None:
        ours, theirs = self.pair()
        ours.up.requires_grad_(False)
        given = torch.from_numpy(x).requires_grad_()
        with torch.no_grad():
            assert_parity(ours, theirs, given)
        assert not ours.up.weight.requires_grad
        assert all(parameter.grad is None for parameter in ours.parameters())
        assert given.requires_grad
        assert given.grad is None


class TestIn16Bits:
    """The bound is PyTorch's own error in the same dtype; 4 u sqrt(n) would let any output pass."""

    def pair(self, dtype: str) -> tuple[torch.nn.Linear, nnx.Linear]:
        ours = torch.nn.Linear(512, 16).to(getattr(torch, dtype))
        theirs = nnx.Linear(512, 16, rngs=nnx.Rngs(0), param_dtype=dtype, dtype=dtype)
        return ours, transfer(ours, theirs)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_zeros_and_a_wrong_scale_fail_and_correct_outputs_pass(
        self, dtype: str, rng: np.random.Generator
    ) -> None:
        x = rng.standard_normal((2, 512)).astype(getattr(ml_dtypes, dtype, dtype))
        ours, theirs = self.pair(dtype)
        assert_parity(ours, theirs, x)
        assert all(d.tolerance <= SMALL for d in compare(ours, theirs, x))
        for factor in (0.0, 0.8, -1.0):
            wrong = transfer(ours, self.pair(dtype)[1])
            wrong.kernel[...] = wrong.kernel[...] * factor
            with pytest.raises(AssertionError, match=r"^output `output` differs"):
                assert_parity(ours, wrong, x)

    def test_bound_never_exceeds_a_small_error(self) -> None:
        assert coarse_tolerance("bfloat16", 0.0) == 4 * UNIT_ROUNDOFF["bfloat16"]
        assert coarse_tolerance("float16", 0.01) == 0.04
        assert coarse_tolerance("bfloat16", 0.5) == SMALL


class TestWhatFails:
    def test_transposed_kernel_is_found_and_its_submodule_named(self, x: np.ndarray) -> None:
        ours, theirs = heads_pair()
        transpose_kernel(theirs.k_proj)
        with pytest.raises(AssertionError) as caught:
            assert_parity(ours, theirs, x)
        headline, *listing = str(caught.value).splitlines()
        assert headline == "output `output` differs, first in submodule `k_proj (output)`"
        assert len(listing) == len(compare(ours, theirs, x))
        assert listing[0].endswith("DIFFERS")

    def test_weights_are_named_first_when_only_they_differ(self, x: np.ndarray) -> None:
        """With equal values for all keys, the output does not depend on the weights."""
        ours, theirs = heads_pair()
        torch.nn.init.zeros_(ours.v_proj.weight)
        transfer(ours, theirs)
        transpose_kernel(theirs.k_proj)
        with pytest.raises(AssertionError, match=r"^output `weights` differs, first in submodule `k_proj"):
            assert_parity(ours, theirs, x)

    def test_untransferred_module_fails(self, x: np.ndarray) -> None:
        ours, _ = heads_pair()
        theirs = jax_attention.MultiHeadSelfAttention(**HEADS_OF, rngs=nnx.Rngs(0))
        with pytest.raises(AssertionError, match="first in submodule `q_proj"):
            assert_parity(ours, theirs, x)

    @pytest.mark.slow
    def test_submodule_is_found_in_float64_from_integer_inputs(self, tokens: np.ndarray) -> None:
        ours, theirs = encoder_pair("float64")
        assert_parity(ours, theirs, tokens)
        with jax.enable_x64(True):
            transpose_kernel(theirs.layers[1].attention.v_proj)
        with pytest.raises(
            AssertionError, match=r"first in submodule `layers\.1\.attention\.v_proj \(output\)"
        ):
            assert_parity(ours, theirs, tokens)

    def test_difference_outside_every_submodule_names_only_the_tensor(self, x: np.ndarray) -> None:
        ours = torch.nn.Linear(EMBED, EMBED)
        theirs = transfer(ours, nnx.Linear(EMBED, EMBED, rngs=nnx.Rngs(0)))
        transpose_kernel(theirs)
        with pytest.raises(AssertionError, match=r"^output `output` differs\n"):
            assert_parity(ours, theirs, x)

    def test_different_parameters_raise_one_sentence(self, x: np.ndarray) -> None:
        ours, _ = heads_pair()
        theirs = jax_attention.MultiHeadSelfAttention(**HEADS_OF, bias=False, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=r"^both modules must have the same gradients") as caught:
            compare(ours, theirs, x)
        assert str(caught.value).endswith("k_proj.bias, out_proj.bias, q_proj.bias, v_proj.bias")

    def test_different_outputs_raise_one_sentence(self, tokens: np.ndarray) -> None:
        ours, _ = encoder_pair()
        _, theirs = encoder_pair(pooler=False)
        message = r"^both models must return the same outputs, .*; PyTorch returns .*pooled .*, and JAX returns output"
        with pytest.raises(ValueError, match=message):
            compare(ours, theirs, tokens)

    @pytest.mark.parametrize("check", [compare, assert_parity])
    def test_missing_platform_raises_with_those_available(
        self, check: Callable[..., Any], x: np.ndarray
    ) -> None:
        ours, theirs = heads_pair()
        missing = "tpu" if jax.default_backend() != "tpu" else "gpu"
        here = jax.default_backend()
        with pytest.raises(PlatformError, match=f"^platform {missing} is not on this machine: .*{here}"):
            check(ours, theirs, x, platform=missing)


class TestPrecision:
    def test_precision_is_highest_inside_and_restored_afterwards(self) -> None:
        torch.set_float32_matmul_precision("medium")
        try:
            with pinned_precision():
                assert torch.get_float32_matmul_precision() == "highest"
                assert jax.config.jax_default_matmul_precision == "highest"
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_precision_is_restored_after_an_exception(self) -> None:
        torch.set_float32_matmul_precision("high")
        try:
            with jax.default_matmul_precision("bfloat16"):
                with pytest.raises(KeyError), pinned_precision():
                    raise KeyError
                assert jax.config.jax_default_matmul_precision == "bfloat16"
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            torch.set_float32_matmul_precision("highest")

    def test_lower_precision_set_outside_does_not_matter(self, x: np.ndarray) -> None:
        seen = []

        class Watched(nnx.Linear):
            def __call__(self, inputs: jax.Array) -> jax.Array:
                seen.append((jax.config.jax_default_matmul_precision, torch.get_float32_matmul_precision()))
                return super().__call__(inputs)

        ours = torch.nn.Linear(EMBED, FFN)
        theirs = transfer(ours, Watched(EMBED, FFN, rngs=nnx.Rngs(0)))
        torch.set_float32_matmul_precision("medium")
        try:
            with jax.default_matmul_precision("bfloat16"):
                assert_parity(ours, theirs, x)
        finally:
            torch.set_float32_matmul_precision("highest")
        assert seen
        assert set(seen) == {("highest", "highest")}


class TestTheMeasure:
    def test_error_is_relative_to_the_largest_value_of_the_reference(self) -> None:
        reference = np.array([[1.0, -8.0], [0.0, 4.0]])
        assert error(reference, reference) == 0.0
        assert error(reference + np.array([[0.0, 0.0], [2.0, 0.0]]), reference) == 0.25
        assert error(reference + 2.0, reference, scale=16.0) == 0.125

    def test_error_relative_to_zero_is_infinite(self) -> None:
        assert error(np.array([0.0, 3e-5]), np.zeros(2)) == np.inf
        assert error(np.zeros(2), np.zeros(2)) == 0.0

    def test_error_of_incomparable_arrays_is_infinite(self) -> None:
        reference = np.array([1.0, 2.0])
        assert error(np.array([1.0, np.nan]), reference) == np.inf
        assert error(np.array([1.0, np.inf]), reference) == np.inf
        assert error(reference, np.array([1.0, np.nan])) == np.inf
        assert error(reference[:, None], reference) == np.inf
        assert error(reference[:1], reference) == np.inf

    def test_error_of_empty_arrays_is_zero(self) -> None:
        assert error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
        assert error(np.zeros((0, 3)), np.zeros((0, 2))) == np.inf

    def test_bfloat16_is_measured_in_float64(self) -> None:
        assert error(np.array([1.0, 3.0], ml_dtypes.bfloat16), np.array([1.0, 2.75])) == 0.25 / 2.75

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_tolerances_grow_with_the_root_of_the_terms(self, dtype: str) -> None:
        unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
        assert tolerances(dtype, 25)["output"] == pytest.approx(20 * unit)
        assert tolerances(dtype, 100)["output"] == pytest.approx(40 * unit)
        assert tolerances(dtype, 12)["gradient"] == pytest.approx(24 * unit)

    def test_float64_bound_is_fixed(self) -> None:
        assert tolerances("float64", 7) == tolerances("float64", 7000) == {"output": 1e-12, "gradient": 1e-12}

    def test_terms_are_columns_of_matrices_and_axes_of_inputs(self) -> None:
        parameters = {"weight": np.empty((13, 12)), "bias": np.empty(13), "table": np.empty((17, 5))}
        inputs = {"x": np.empty((2, 7, 11)), "need_weights": True}
        assert summed_terms(parameters, inputs) == 12 + 5 + 2 + 7 + 11

    def test_difference_is_ok_only_if_all_three_errors_are(self) -> None:
        def found(torch_err: float, jax_err: float, diff: float) -> Difference:
            return Difference(
                "output", "output", torch_err, jax_err, diff, 1.0, elements=1, same_bits=1, other_zeros=0
            )

        assert found(1.0, 1.0, 2.0).ok
        assert not found(1.1, 0.0, 0.0).ok
        assert not found(0.0, 1.1, 0.0).ok
        assert not found(0.0, 0.0, 2.1).ok
        assert not found(0.0, np.inf, 0.0).ok
        assert str(found(0.0, np.inf, 0.0)).endswith("DIFFERS")
        assert str(found(0.0, 0.0, 0.0)).endswith("ok")


@pytest.mark.slow
class TestInjectedDropout:
    """Dropout masks are tuples of each mirror's own class, so the two runs are compared here without `compare`."""

    def test_decoder_block_drops_the_same_in_all_six_positions(
        self, x: np.ndarray, memory: np.ndarray, rng: np.random.Generator
    ) -> None:
        shapes = {
            "self_weights": (BATCH, HEADS, LENGTH, LENGTH),
            "self_output": (BATCH, LENGTH, EMBED),
            "cross_weights": (BATCH, HEADS, LENGTH, MEMORY),
            "cross_output": (BATCH, LENGTH, EMBED),
            "ffn_hidden": (BATCH, LENGTH, FFN),
            "ffn_output": (BATCH, LENGTH, EMBED),
        }
        assert tuple(shapes) == torch_cross.DecoderKeep._fields == jax_cross.DecoderKeep._fields
        keep = {name: rng.random(shape) < 1 - DROPOUT for name, shape in shapes.items()}
        ours, theirs = decoder_pair(dropout=DROPOUT)

        def run(kept: dict[str, np.ndarray]) -> np.ndarray:
            our_keep = torch_cross.DecoderKeep(**{n: torch.from_numpy(k) for n, k in kept.items()})
            their_keep = jax_cross.DecoderKeep(**{n: jnp.asarray(k) for n, k in kept.items()})
            expected = ours(torch.from_numpy(x), torch.from_numpy(memory), dropout_keep=our_keep)
            found = theirs(jnp.asarray(x), jnp.asarray(memory), dropout_keep=their_keep)
            self.assert_equal(found, expected)
            return expected.output.detach().numpy()

        everything = run(keep)
        for name in shapes:  # each mask has an effect
            without = run({other: k for other, k in keep.items() if other != name})
            assert error(without, everything.astype(np.float64)) > 0.01, name

    def test_encoder_drops_the_same_in_every_layer(
        self, tokens: np.ndarray, rng: np.random.Generator
    ) -> None:
        wide, square = (BATCH, LENGTH, EMBED), (BATCH, HEADS, LENGTH, LENGTH)
        embeddings = rng.random(wide) < 1 - DROPOUT
        layers = [
            {
                "weights": rng.random(square) < 1 - DROPOUT,
                "attention_output": rng.random(wide) < 1 - DROPOUT,
                "ffn_output": rng.random(wide) < 1 - DROPOUT,
            }
            for _ in range(ENCODER["num_layers"])
        ]
        ours, theirs = encoder_pair(dropout=DROPOUT)
        our_keep, their_keep = (
            mirror.ModelKeep(
                array(embeddings),
                tuple(mirror.LayerKeep(**{n: array(k) for n, k in layer.items()}) for layer in layers),
            )
            for mirror, array in ((torch_attention, torch.from_numpy), (jax_attention, jnp.asarray))
        )
        expected = ours(torch.from_numpy(tokens), need_weights=True, dropout_keep=our_keep)
        self.assert_equal(theirs(jnp.asarray(tokens), need_weights=True, dropout_keep=their_keep), expected)
        plain = ours(torch.from_numpy(tokens)).output.detach().numpy()
        assert error(plain, expected.output.detach().numpy().astype(np.float64)) > 0.1

    def assert_equal(self, found: Any, expected: Any) -> None:
        right = {name: x.detach().numpy().astype(np.float64) for name, x in named_outputs(expected).items()}
        measured = {name: error(np.asarray(x), right[name]) for name, x in named_outputs(found).items()}
        assert measured.keys() == right.keys()
        assert max(measured.values()) < tolerances("float32", 200)["output"], measured


def test_both_functions_take_the_same_arguments() -> None:
    ours, theirs = (list(inspect.signature(function).parameters) for function in (compare, assert_parity))
    assert ours == theirs


def test_platform_has_float64_only_if_requested() -> None:
    with on_platform("cpu", float64=True):
        assert jnp.asarray(np.zeros(3)).dtype == "float64"
    with on_platform("cpu", float64=False):
        assert jnp.zeros(3).dtype == "float32"


def test_equal_bits_are_counted_in_float32_and_zeros_of_other_sign_apart() -> None:
    third = np.float64(1 / 3)
    ours = np.array([third, 1.0, 0.0, 2.0])
    theirs = np.array([np.nextafter(third, 1), 1.0 + 2.0**-20, -0.0, 2.0])
    assert same_bits(ours, theirs) == (2, 1)
    assert same_bits(ours, ours) == (4, 0)
    assert same_bits(ours, theirs[:3]) == (0, 0)


@pytest.mark.parametrize("mechanism", [CATALOGUE[0], CATALOGUE[-1]], ids=lambda mechanism: mechanism.name)
def test_float64_results_rounded_to_float32_are_the_same(mechanism: Mechanism) -> None:
    for each in prove_case(mechanism, "none", "float64"):
        if each.kind == "output":
            assert each.elements > 0
            assert each.same_bits == each.elements
