"""The doctor distinguishes mistakes as small as rounding from rounding; correct ports stay healthy in every dtype."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_bridge.doctor import Diagnosis, Setting, diagnose
from attention_bridge.doctor.case import make_port
from attention_bridge.doctor.layer import compute
from parity_tests.helpers import faulty_layers as layers
from parity_tests.helpers.faulty_layers import Case, Weights

LENGTH, WINDOW = 16, 4


def drawer(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def attention() -> Case:
    """4 heads of 16."""
    draw = drawer(1)
    right = {"heads": 4, "kv_heads": 4}
    return Case(
        Setting(4), layers.attention, right, layers.random_weights(draw, 4, 4, 16, 64), draw(2, LENGTH, 64)
    )


def block() -> Case:
    """A layer with LayerNorm after each residual."""
    draw = drawer(2)
    w = layers.random_weights(draw, 4, 4, 16, 64)
    w |= layers.affine(draw, {"ffn.up_proj": (128, 64), "ffn.down_proj": (64, 128)})
    for name in ("attention_norm", "ffn_norm"):
        w |= {f"{name}.weight": 1 + draw(64) / 4, f"{name}.bias": draw(64) / 4}
    return Case(Setting(4), layers.block, {"heads": 4, "kv_heads": 4}, w, draw(2, LENGTH, 64))


CASES = {"attention": attention(), "block": block()}


def diagnosed(
    name: str, dtype: torch.dtype, change: Callable[[Weights], Weights] = dict, **wrong: Any
) -> Diagnosis:
    """The diagnosis of a port in a dtype with changed weights; the float64 reference has the original ones."""
    case = CASES[name]
    weights = {key: w.to(dtype) for key, w in case.weights.items()}
    x = case.x.to(dtype)
    reference = compute(make_port(x, weights, case.setting)).astype(np.float32)
    seen = torch.ones(1, 1, dtype=torch.bool)
    outputs = case.layer(change(weights), x, x, seen, **{**case.right, **wrong})
    return diagnose(reference, outputs, x=x, weights=weights, setting=case.setting)


def in_int8(weights: Weights) -> Weights:
    def rounded(w: Tensor) -> Tensor:
        if w.ndim < 2:
            return w
        step = w.double().abs().amax(dim=-1, keepdim=True) / 127
        return ((w.double() / step).round() * step).to(w.dtype)

    return {name: rounded(w) for name, w in weights.items()}


def n_minus_1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    variance, mean = torch.var_mean(x.float(), dim=-1, keepdim=True)
    return ((x.float() - mean) / (variance + 1e-5).sqrt()).to(x.dtype) * weight + (
        0 if bias is None else bias
    )


def unbiased(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], None if name == "q_proj" else w[f"{name}.bias"])


SLIGHT: list[tuple[str, torch.dtype, str, dict[str, Any]]] = [
    ("block", torch.float32, "norm eps 1e-06", {"norm": partial(layers.layer_norm, eps=1e-6)}),
    ("block", torch.bfloat16, "variance over n - 1", {"norm": n_minus_1}),
    ("block", torch.bfloat16, "q_proj without bias", {"linear": unbiased}),
    ("attention", torch.bfloat16, "scale missing", {"scale": lambda d: 1}),
    ("attention", torch.bfloat16, "weights in int8", {"change": in_int8}),
    ("attention", torch.float16, "weights in int8", {"change": in_int8}),
]


@pytest.mark.parametrize(
    ("case", "dtype", "name", "wrong"), SLIGHT, ids=[f"{n} {d}" for _, d, n, _ in SLIGHT]
)
def test_mistake_as_small_as_rounding_is_named(
    case: str, dtype: torch.dtype, name: str, wrong: dict[str, Any]
) -> None:
    found = diagnosed(case, dtype, **wrong)
    assert [finding.name for finding in found.explanations] == [name]
    assert found.explanations[0].after < found.explanations[0].before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_correct_port_is_healthy_in_its_dtype(case: str, dtype: torch.dtype) -> None:
    found = diagnosed(case, dtype)
    assert (found.status, found.explanations, found.aim) == ("healthy", (), "")


@pytest.mark.parametrize("what", ["the outputs", "the scores", "the attention weights"])
def test_factor_as_small_as_rounding_is_not_healthy(what: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "the outputs": {"merge": lambda x: 1.012 * layers.merge(x)},
        "the scores": {"scale": lambda d: 1.02 * d**-0.5},
        "the attention weights": {"softmax": lambda *given: 1.012 * layers.softmax(*given)},
    }
    found = diagnosed("attention", torch.bfloat16, **changes[what])
    assert found.error <= found.tolerance
    assert found.status == "unexplained"
    assert "a factor of 1.01" in found.verdict


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("causal mask missing", WINDOW - 1, LENGTH),
        ("causal mask one late", WINDOW - 2, 1),
        ("causal mask hides the diagonal", WINDOW, -1),
    ],
)
def test_window_moves_with_the_diagonal_or_stays(name: str, first: int, last: int) -> None:
    case = CASES["attention"]
    setting = Setting(4, is_causal=True, window=WINDOW)
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    right = case.run(seen=(distance >= 0) & (distance < WINDOW))
    wrong = case.run(seen=(distance >= -last) & (distance <= first))
    found = diagnose(right, wrong, x=case.x, weights=case.weights, setting=setting)
    assert [finding.name for finding in found.explanations] == [name]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_correct_port_with_tiny_or_huge_outputs_is_healthy(dtype: torch.dtype, size: float) -> None:
    case = CASES["attention"]
    if dtype == torch.float16 and size > 1:
        size = 1e3
    weights = {key: (w * size if "out_proj" in key else w).to(dtype) for key, w in case.weights.items()}
    x = case.x.to(dtype)
    reference = compute(make_port(x, weights, case.setting)).astype(np.float32)
    outputs = case.layer(weights, x, x, torch.ones(1, 1, dtype=torch.bool), **case.right)
    assert diagnose(reference, outputs, x=x, weights=weights, setting=case.setting).status == "healthy"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_correct_port_with_saturated_scores_is_not_misnamed(dtype: torch.dtype) -> None:
    case = CASES["block"]
    weights, x = {key: w.to(dtype) for key, w in case.weights.items()}, (60 * case.x).to(dtype)
    reference = compute(make_port(x, weights, case.setting)).astype(np.float32)
    outputs = case.layer(weights, x, x, torch.ones(1, 1, dtype=torch.bool), **case.right)
    found = diagnose(reference, outputs, x=x, weights=weights, setting=case.setting)
    assert {finding.name for finding in found.explanations} <= {"bfloat16 products"}
    assert dtype != torch.float32 or found.status == "healthy"


def test_large_error_of_rounding_alone_is_not_healthy() -> None:
    case = CASES["attention"]
    dtype = torch.bfloat16
    weights, x = {key: w.to(dtype) for key, w in case.weights.items()}, (30 * case.x).to(dtype)
    reference = compute(make_port(x, weights, case.setting)).astype(np.float32)
    outputs = case.layer(weights, x, x, torch.ones(1, 1, dtype=torch.bool), **case.right)
    found = diagnose(reference, outputs, x=x, weights=weights, setting=case.setting)
    assert found.status != "healthy"
    assert {finding.name for finding in found.explanations} <= {"bfloat16 products"}
    assert "bfloat16" in found.verdict
