"""Products in the precisions of accelerators, emulated: which values are rounded, and the resulting errors."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_bridge.accelerators.precision import (
    PRECISIONS,
    emulated_products,
    in_two_parts,
    to_bfloat16,
    to_tf32,
)
from attention_bridge.catalogue import CATALOGUE, Mechanism, select
from attention_bridge.errors import InputError
from attention_bridge.parity import instances
from attention_bridge.parity.measure import CONSTANT, error, summed_terms
from benchmarks import precision as page

# The largest relative rounding error of a factor.
ROUNDOFF = {
    "float32": 2.0**-24,
    "bfloat16 in three passes": 2.0**-16,
    "TF32": 2.0**-11,
    "bfloat16 in one pass": 2.0**-8,
}
ONE_PASS = {"TF32": to_tf32, "bfloat16 in one pass": to_bfloat16}
OUTER = {"matrix and vector", "vectors"}  # PyTorch multiplies their gradients element by element
MULTIPLIES_NOTHING = {"SinusoidalEmbedding", "LearnedEmbedding"}

B, M, N, K = 2, 5, 7, 11
# Functions that are products of their first two tensors, plus the third tensor where there is one.
PRODUCTS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "matrices": (torch.mm, ((M, K), (K, N))),
    "batches of matrices": (torch.bmm, ((B, M, K), (B, K, N))),
    "matrix and vector": (torch.mv, ((M, K), (K,))),
    "vectors": (torch.dot, ((K,), (K,))),
    "einsum": (partial(torch.einsum, "bik,bjk->bij"), ((B, M, K), (B, N, K))),
    "linear": (F.linear, ((B, M, K), (N, K), (N,))),
    "linear of a vector": (F.linear, ((K,), (N, K), (N,))),
    "added": (lambda x, y, z: torch.baddbmm(z, x, y, beta=0.5, alpha=4.0), ((B, M, K), (B, K, N), (B, M, N))),
    "convolution": (partial(F.conv1d, padding=1), ((B, 3, K), (N, 3, 3), (N,))),
    "convolution in two directions": (partial(F.conv2d, stride=2), ((B, 3, K, 9), (N, 3, 3, 3))),
}


def random(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


@pytest.mark.parametrize(("rounded", "bits"), [(to_tf32, 11), (to_bfloat16, 8)], ids=["TF32", "bfloat16"])
def test_value_is_rounded_to_the_nearest_with_so_few_bits(rng, rounded, bits):
    x = rng.standard_normal(4001).astype(np.float32) * np.float32(2.0) ** rng.integers(-60, 60, 4001)
    x = x.astype(np.float32)
    fraction, exponent = np.frexp(x.astype(np.float64))
    nearest = np.ldexp(np.round(fraction * 2.0**bits) / 2.0**bits, exponent)
    np.testing.assert_array_equal(rounded(torch.from_numpy(x)).numpy(), nearest)


def test_ties_round_away_from_zero_in_tf32_and_to_even_in_bfloat16():
    tf32, bfloat16 = 2.0**-11, 2.0**-8  # half of the last bit of 1
    assert to_tf32(torch.tensor([1 + tf32, -1 - tf32, 1 + 3 * tf32])).tolist() == [
        1 + 2 * tf32,
        -1 - 2 * tf32,
        1 + 4 * tf32,
    ]
    assert to_bfloat16(torch.tensor([1 + bfloat16, -1 - bfloat16, 1 + 3 * bfloat16])).tolist() == [
        1.0,
        -1.0,
        1 + 4 * bfloat16,
    ]


@pytest.mark.parametrize("rounded", [to_tf32, to_bfloat16])
def test_non_finite_values_and_zeros_are_unchanged(rounded):
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0])
    np.testing.assert_array_equal(rounded(x).numpy(), x.numpy())


def test_two_bfloat16_parts_nearly_sum_to_the_value(rng):
    (x,) = random(rng, (4001,))
    first, second = in_two_parts(x)
    assert ((first.double() + second.double() - x.double()).abs() <= 2.0**-16 * x.abs().double()).all()


@pytest.mark.parametrize("precision", ONE_PASS)
@pytest.mark.parametrize("word", PRODUCTS)
def test_only_the_factors_of_a_product_are_rounded_forward_and_backward(rng, word, precision):
    function, shapes = PRODUCTS[word]
    tensors, rounded = random(rng, *shapes), ONE_PASS[precision]
    factors = [rounded(x) for x in tensors[:2]]
    expected = function(*(x.double() for x in (*factors, *tensors[2:])))
    (cotangent,) = random(rng, tuple(expected.shape))

    leaves = [x.requires_grad_() for x in tensors]
    with emulated_products(precision):
        found = function(*leaves)
        gradients = torch.autograd.grad(found, leaves, cotangent)
    assert error(found.detach().numpy(), expected.numpy()) < CONSTANT * 2.0**-24 * K**0.5

    # Each factor's gradient is the product of the other rounded factor and the rounded gradient of the output.
    exact = [x.double().requires_grad_() for x in (*factors, *(x.detach() for x in tensors[2:]))]
    output = function(*exact)
    of_factors = torch.autograd.grad(output, exact[:2], rounded(cotangent).double(), retain_graph=True)
    of_others = torch.autograd.grad(output, exact[2:], cotangent.double()) if exact[2:] else ()
    if word not in OUTER:
        for gradient, right in zip(gradients, (*of_factors, *of_others), strict=True):
            bound = CONSTANT * 2.0**-24 * (B * M * N) ** 0.5
            assert error(gradient.numpy(), right.numpy()) < bound


@pytest.mark.parametrize("word", PRODUCTS)
def test_three_passes_are_accurate_up_to_two_bfloat16_parts(rng, word):
    function, shapes = PRODUCTS[word]
    tensors = [x.requires_grad_() for x in random(rng, *shapes)]
    expected = function(*(x.double() for x in tensors))
    (cotangent,) = random(rng, tuple(expected.shape))
    right = torch.autograd.grad(expected, tensors, cotangent.double())
    with emulated_products("bfloat16 in three passes"):
        found = function(*tensors)
        gradients = torch.autograd.grad(found, tensors, cotangent)
    for ours, exact in zip((found, *gradients), (expected, *right), strict=True):
        assert error(ours.detach().numpy(), exact.detach().numpy()) < CONSTANT * 2.0**-16 * (B * M * N) ** 0.5


def test_products_of_other_dtypes_are_unchanged(rng):
    x, y = (t.double() for t in random(rng, (M, K), (K, N)))
    with emulated_products("bfloat16 in one pass"):
        assert torch.equal(x @ y, (x.float().double() @ y))


def test_products_are_restored_after_the_context(rng):
    x, y = random(rng, (M, K), (K, N))
    before = x @ y
    with emulated_products("TF32"):
        assert not torch.equal(x @ y, before)
    assert torch.equal(x @ y, before)


def test_unknown_precision_raises_one_sentence():
    with (
        pytest.raises(InputError, match=r"^precision must be one of float32, .*, got float16$"),
        emulated_products("float16"),
    ):
        pass


def check(mechanism: Mechanism) -> None:
    """Assert that each precision errs within its rounding bound, and more than the next finer one."""
    found = page.emulated(mechanism)
    terms = summed_terms(instances.parameters(mechanism), page.given_to(mechanism))
    for precision, (output, gradient) in found.items():
        unit = CONSTANT * (ROUNDOFF[precision] + ROUNDOFF["float32"])
        assert output <= unit * terms**0.5, precision
        assert gradient <= unit * (3 * terms) ** 0.5, precision
    outputs = [output for output, _ in found.values()]
    if mechanism.name in MULTIPLIES_NOTHING:
        assert len(set(outputs)) == 1
    else:
        assert all(finer < coarser for finer, coarser in pairwise(outputs)), outputs


def test_coarser_precision_errs_more_and_within_its_bound():
    (mechanism,) = select(["GroupedQueryAttention"])
    check(mechanism)


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda mechanism: mechanism.name)
def test_every_product_of_every_mechanism_is_emulated(mechanism):
    check(mechanism)


def test_page_has_a_column_per_precision(monkeypatch):
    monkeypatch.setattr(page, "CATALOGUE", select(["ScaledDotProductAttention"]))
    row = page.page("cpu").splitlines()[-1]
    assert row.startswith("| ScaledDotProductAttention |")
    assert row.count("|") == len(PRECISIONS) + 2


def test_device_measures_each_setting_of_each_framework_and_restores_it():
    (mechanism,) = select(["ScaledDotProductAttention"])
    before = torch.get_float32_matmul_precision()
    found = page.on_device(mechanism, "cpu")
    assert set(found) == {"JAX highest", "JAX high", "JAX default"}
    assert torch.get_float32_matmul_precision() == before
    for output, gradient in found.values():  # a CPU has one precision
        assert max(output, gradient) < CONSTANT * 2.0**-24 * 100**0.5
