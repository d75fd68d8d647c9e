"""The doctor names every mistake, and no other; each mistake is made by a separate implementation."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from attention_bridge.cli import app
from attention_bridge.doctor import SUSPECTS, Setting, budget, diagnose, layer
from attention_bridge.doctor.case import make_port
from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.report import as_json
from attention_bridge.errors import InputError
from attention_bridge.parity.measure import error
from parity_tests.helpers import faulty_layers as layers
from parity_tests.helpers.faulty_layers import Case, Weights, half_rope, linear, random_weights
from torch_attention.models.encoder_layer import EncoderConfig, EncoderLayer

WINDOW, CAP = 3, 2.5
QUERY, KEY = 5, 7


def drawer(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def causal(query: int, key: int, offset: int = 0) -> Tensor:
    return torch.ones(query, key, dtype=torch.bool).tril(offset)


def window(size: int, length: int = KEY) -> Tensor:
    return causal(length, length) & ~causal(length, length, -size)


def grouped() -> Case:
    """4 query heads of 6 over 2 key/value heads, with RoPE, softcap, a window, and a mask with a fully masked row."""
    draw = drawer(1)
    mask = draw(2, 1, KEY, KEY) < 0.7
    mask[0, 0, 4] = False
    turn = partial(half_rope, base=10000.0)
    return Case(
        Setting(4, 2, is_causal=True, window=WINDOW, rope="half", softcap=CAP),
        layers.attention,
        {"heads": 4, "kv_heads": 2, "turn": (turn, turn), "cap": CAP},
        random_weights(draw, 4, 2, 6, 24),
        2 * draw(2, KEY, 24),
        mask=mask,
        seen=mask & window(WINDOW),
    )


def cross() -> Case:
    """Causal cross-attention: 3 heads of 8, from 20 features to memories of 18."""
    draw = drawer(2)
    return Case(
        Setting(3, is_causal=True),
        layers.attention,
        {"heads": 3, "kv_heads": 3},
        random_weights(draw, 3, 3, 8, 20, memory=18),
        draw(2, QUERY, 20),
        draw(2, KEY, 18),
        seen=causal(QUERY, KEY),
    )


def plain() -> Case:
    """3 heads of 8 on 23 features, no mask, a scale argument."""
    draw = drawer(3)
    right = {"heads": 3, "kv_heads": 3, "scale": lambda d: 0.5}
    return Case(
        Setting(3, scale=0.5), layers.attention, right, random_weights(draw, 3, 3, 8, 23), draw(2, KEY, 23)
    )


def norms(draw: Callable[..., Tensor], dim: int, bias: bool) -> Weights:
    w = {f"{name}.weight": 1 + draw(dim) / 4 for name in ("attention_norm", "ffn_norm")}
    return w | ({f"{name}.bias": draw(dim) for name in ("attention_norm", "ffn_norm")} if bias else {})


def bert() -> Case:
    """A layer with LayerNorm after each residual."""
    draw = drawer(4)
    w = random_weights(draw, 3, 3, 8, 21) | norms(draw, 21, bias=True)
    w |= layers.affine(draw, {"ffn.up_proj": (35, 21), "ffn.down_proj": (21, 35)})
    return Case(
        Setting(3, norm_eps=1e-4),
        layers.block,
        {"heads": 3, "kv_heads": 3, "norm": eps_norm(1e-4)},
        w,
        draw(2, KEY, 21),
    )


def gemma() -> Case:
    """A layer with RMSNorm by 1 + weight before each sublayer."""
    draw = drawer(5)
    w = random_weights(draw, 3, 3, 8, 21) | norms(draw, 21, bias=False)
    w |= layers.affine(draw, {"ffn.up_proj": (35, 21), "ffn.down_proj": (21, 35)})
    setting = Setting(3, norm="rms", norm_offset=True, norm_first=True, activation="gelu_tanh")
    right = {"heads": 3, "kv_heads": 3, "first": True, "norm": offset_norm, "activation": tanh_gelu}
    return Case(setting, layers.block, right, w, draw(2, KEY, 21))


def eps_norm(eps: float) -> Callable[..., Tensor]:
    return partial(layers.layer_norm, eps=eps)


def offset_norm(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return layers.rms_norm(x, 1 + weight, bias)


def tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


CASES = {case.__name__: case() for case in (grouped, cross, plain, bert, gemma)}
GROUPED, CROSS = CASES["grouped"], CASES["cross"]


def kernel(*names: str) -> Callable[..., Tensor]:
    """The bytes of (out, in) weights read as (in, out) kernels."""

    def wrong(w: Weights, name: str, x: Tensor) -> Tensor:
        if name not in names:
            return linear(w, name, x)
        weight = w[f"{name}.weight"]
        return x @ weight.reshape(weight.shape[::-1]) + w[f"{name}.bias"]

    return wrong


def unkernel(*names: str) -> Callable[..., Tensor]:
    """The bytes of (in, out) kernels read as (out, in) weights."""

    def wrong(w: Weights, name: str, x: Tensor) -> Tensor:
        if name not in names:
            return linear(w, name, x)
        weight = w[f"{name}.weight"]
        return F.linear(x, weight.T.contiguous().view(weight.shape), w[f"{name}.bias"])

    return wrong


def unbiased(*names: str) -> Callable[..., Tensor]:
    return lambda w, name, x: F.linear(x, w[f"{name}.weight"]) if name in names else linear(w, name, x)


def order(letters: str) -> Callable[..., tuple[Tensor, ...]]:
    def wrong(w: Weights, x: Tensor, memory: Tensor, *, linear: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return tuple(linear(w, f"{letter}_proj", x) for letter in letters)

    return wrong


def fused(written: str, read: str) -> Callable[..., tuple[Tensor, ...]]:
    """A fused projection written in one order of axes and split in another; t is the axis of q, k and v."""
    sizes = {"t": 3, "h": 3, "d": 8}

    def wrong(w: Weights, x: Tensor, memory: Tensor, **_: Any) -> tuple[Tensor, ...]:
        parts = torch.stack([linear(w, f"{letter}_proj", x).unflatten(-1, (3, 8)) for letter in "qkv"])
        written_out = torch.einsum(f"tblhd->bl{written}", parts).flatten(2)
        cut = written_out.unflatten(-1, [sizes[axis] for axis in read])
        return tuple(torch.einsum(f"bl{read}->tblhd", cut).flatten(3))

    return wrong


def by_groups(w: Weights, x: Tensor, memory: Tensor, *, linear: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """A projection written as two groups of (2 queries, key, value) and split into queries, keys, values."""
    q, k, v = (linear(w, f"{letter}_proj", x).unflatten(-1, (2, -1)) for letter in "qkv")
    return torch.cat([q, k, v], dim=-1).flatten(2).split([24, 12, 12], dim=-1)


def swapped_cut(*names: str) -> Callable[..., Tensor]:
    """Heads split as (head_dim, heads)."""

    def wrong(x: Tensor, heads: int, name: str) -> Tensor:
        return (
            torch.einsum("bldh->bhld", x.unflatten(-1, (-1, heads)))
            if name in names
            else layers.split(x, heads)
        )

    return wrong


def swapped_merge(x: Tensor) -> Tensor:
    return torch.einsum("bhld->bldh", x).flatten(2)


def raw_split(x: Tensor, heads: int, name: str) -> Tensor:
    return x.reshape(len(x), heads, x.shape[1], -1)


def raw_merge(x: Tensor) -> Tensor:
    return x.reshape(len(x), x.shape[2], -1)


def turned(
    q: dict[str, Any] | None = None, k: dict[str, Any] | None = None, rope: Any = half_rope
) -> dict[str, Any]:
    return {
        "turn": tuple(
            (lambda x: x) if change is None else partial(rope, **{"base": 10000.0, **change})
            for change in (q, k)
        )
    }


def permuted(forward: bool) -> dict[str, Any]:
    """Features of each head permuted for the other pairing before the rotation."""

    def turn(x: Tensor) -> Tensor:
        return half_rope(x.unflatten(-1, (2, 3) if forward else (3, 2)).mT.flatten(-2), 10000.0)

    return {"turn": (turn, turn)}


def empty(give: str) -> Callable[..., Tensor]:
    def wrong(scores: Tensor, seen: Tensor) -> Tensor:
        if give == "mean":
            return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
        if give == "nan":
            return scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.where(seen, 0.0, -1e4).add(scores).softmax(-1)

    return wrong


def n_minus_1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-4).sqrt() * weight + (0 if bias is None else bias)


def cut_to(bits: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Float32 products of factors whose mantissa is rounded half up to so many bits."""

    def keep(x: Tensor) -> Tensor:
        drop = 23 - bits
        words = x.contiguous().view(torch.int32) + (1 << (drop - 1))
        return (words & -(1 << drop)).view(torch.float32)

    return lambda a, b: keep(a) @ keep(b)


MAPS = ("q_proj", "k_proj", "v_proj", "out_proj")
ALL = (*MAPS, "ffn.up_proj", "ffn.down_proj")
PAIRING = ("RoPE with the other pairing", "RoPE weights permuted")
MASK = GROUPED.mask
assert MASK is not None

# The case, the mistake made in it, and the names that the doctor must report: no more and no fewer.
FAULTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    *(("grouped", {"linear": kernel(name)}, (f"{name} not transposed",)) for name in MAPS),
    *(("cross", {"linear": unkernel(name)}, (f"{name} not transposed",)) for name in MAPS),
    *(("bert", {"linear": kernel(name)}, (f"{name} not transposed",)) for name in ALL[4:]),
    ("cross", {"linear": kernel(*MAPS)}, ("no matrix transposed",)),
    ("gemma", {"linear": unkernel(*ALL)}, ("no matrix transposed",)),
    *(("grouped", {"linear": unbiased(name)}, (f"{name} without bias",)) for name in MAPS),
    *(("bert", {"linear": unbiased(name)}, (f"{name} without bias",)) for name in ALL[4:]),
    ("bert", {"linear": unbiased(*ALL)}, ("no biases",)),
    *(
        ("plain", {"projected": order(letters)}, (f"projections in the order {', '.join(letters)}",))
        for letters in ("kqv", "vkq", "qvk", "kvq", "vqk")
    ),
    *(
        ("plain", {"split": swapped_cut(name)}, (f"head order (D, H) in {name}_proj",))
        for name in ("q", "k", "v")
    ),
    ("cross", {"merge": swapped_merge}, ("head order (D, H) in out_proj",)),
    ("cross", {"split": swapped_cut(*"qkv")}, ("head order (D, H) in q_proj, k_proj, v_proj",)),
    (
        "grouped",
        {"split": swapped_cut(*"qkv"), "merge": swapped_merge},
        ("head order (D, H) in q_proj, k_proj, v_proj, out_proj",),
    ),
    *(
        ("plain", {"projected": fused(*axes)}, (f"fused q, k, v as {words}",))
        for written, words in (("htd", "(H, 3, D)"), ("hdt", "(H, D, 3)"), ("dth", "(D, 3, H)"))
        for axes in ((written, "thd"), ("thd", written))
    ),
    ("grouped", {"projected": by_groups}, ("fused q, k, v by groups",)),
    ("grouped", {"repeat": lambda x, n: x.repeat(1, n, 1, 1)}, ("key/value heads tiled",)),
    ("grouped", {"split": raw_split}, ("reshaped to heads, not transposed",)),
    ("cross", {"merge": raw_merge}, ("reshaped from heads, not transposed",)),
    ("bert", {"split": raw_split, "merge": raw_merge}, ("reshaped to and from heads, not transposed",)),
    ("grouped", {"scale": lambda d: 1}, ("scale missing",)),
    ("cross", {"scale": lambda d: 1 / d}, ("scale twice",)),
    ("cross", {"scale": lambda d: 20**-0.5}, ("scale of embed_dim",)),
    ("plain", {"scale": lambda d: d**-0.5}, ("scale of head_dim",)),
    ("grouped", {"cap": None}, ("softcap missing",)),
    ("grouped", turned({}, {}, layers.complex_rope), PAIRING),
    ("grouped", permuted(True), ("RoPE weights permuted",)),
    ("grouped", permuted(False), PAIRING),
    ("grouped", turned(None, None), ("RoPE missing",)),
    ("grouped", turned({}, None), ("RoPE of queries only",)),
    ("grouped", turned(None, {}), ("RoPE of keys only",)),
    ("grouped", turned({"sign": -1}, {"sign": -1}), ("RoPE backwards",)),
    *(("grouped", turned({"base": b}, {"base": b}), (f"RoPE base {b:.0f}",)) for b in (5e5, 1e6)),
    ("grouped", {"seen": ~MASK & window(WINDOW)}, ("mask inverted",)),
    ("grouped", {"seen": window(WINDOW)}, ("mask missing",)),
    ("grouped", {"seen": MASK.mT & window(WINDOW)}, ("mask transposed",)),
    ("cross", {"seen": torch.ones(QUERY, KEY, dtype=torch.bool)}, ("causal mask missing",)),
    ("plain", {"seen": causal(KEY, KEY)}, ("causal mask added",)),
    ("cross", {"seen": causal(QUERY, KEY, KEY - QUERY)}, ("causal mask in the other corner",)),
    ("cross", {"seen": causal(QUERY, KEY, -1)}, ("causal mask hides the diagonal",)),
    ("cross", {"seen": causal(QUERY, KEY, 1)}, ("causal mask one late",)),
    ("grouped", {"seen": MASK & window(WINDOW + 1)}, ("window one too wide",)),
    ("grouped", {"seen": MASK & window(WINDOW - 1)}, ("window one too narrow",)),
    ("grouped", {"seen": MASK & causal(KEY, KEY)}, ("window missing",)),
    ("grouped", {"softmax": empty("mean")}, ("mean for fully masked rows",)),
    ("grouped", {"softmax": empty("nan")}, ("NaN for fully masked rows",)),
    ("grouped", {"softmax": empty("unmasked")}, ("fully masked rows unmasked",)),
    ("bert", {"activation": tanh_gelu}, ("GELU by tanh as activation",)),
    ("gemma", {"activation": F.gelu}, ("GELU by erf as activation",)),
    ("bert", {"activation": F.relu}, ("ReLU as activation",)),
    *(("bert", {"norm": eps_norm(eps)}, (f"norm eps {eps:.0e}",)) for eps in (1e-3, 1e-5, 1e-6, 1e-12)),
    ("bert", {"norm": partial(layers.rms_norm, eps=1e-4)}, ("RMSNorm for LayerNorm",)),
    (
        "gemma",
        {"norm": lambda x, w, b: layers.layer_norm(x, 1 + w, b)},
        ("LayerNorm for RMSNorm",),
    ),
    ("gemma", {"norm": layers.rms_norm}, ("norm by weight, not 1 + weight",)),
    (
        "bert",
        {"norm": lambda x, w, b: layers.layer_norm(x, 1 + w, b, 1e-4)},
        ("norm by 1 + weight, not weight",),
    ),
    ("bert", {"norm": n_minus_1}, ("variance over n - 1",)),
    ("bert", {"names": ("", "ffn_norm")}, ("attention_norm missing",)),
    ("gemma", {"names": ("attention_norm", "")}, ("ffn_norm missing",)),
    ("bert", {"names": ("ffn_norm", "attention_norm")}, ("norms exchanged",)),
    ("gemma", {"first": False}, ("pre-norm and post-norm exchanged",)),
    ("bert", {"residual": 0}, ("residuals missing",)),
]
IDS = [f"{case}: {' or '.join(names)} {n}" for n, (case, _, names) in enumerate(FAULTS)]


def names(diagnosis: Any) -> set[str]:
    return {finding.name for finding in diagnosis.explanations}


@pytest.mark.parametrize("case", CASES)
def test_correct_port_is_healthy(case: str) -> None:
    reference = CASES[case].run()
    for port in (reference, reference.astype(np.float32)):
        diagnosis = diagnose(reference, port, **CASES[case].given())
        assert (diagnosis.status, diagnosis.explanations) == ("healthy", ())
        assert diagnosis.error <= diagnosis.tolerance


@pytest.mark.parametrize(("case", "wrong", "expected"), FAULTS, ids=IDS)
def test_every_mistake_is_named_with_its_cure(
    case: str, wrong: dict[str, Any], expected: tuple[str, ...]
) -> None:
    diagnosis = diagnose(CASES[case].run(), CASES[case].run(**wrong), **CASES[case].given())
    assert diagnosis.status == "diagnosed"
    assert names(diagnosis) == set(expected)
    for finding in diagnosis.explanations:
        assert finding.before == diagnosis.error > 1e-9
        assert finding.after <= diagnosis.tolerance == 1e-12
        assert finding.suspects[0].cure in diagnosis.verdict


def test_every_suspect_has_been_tested() -> None:
    tested = {name for *_, expected in FAULTS for name in expected}
    tested |= {"TF32 products", "bfloat16 products", "float16 products", "RoPE base 10000"}  # in another test
    tested |= {f"weights in {dtype}" for dtype in ("float16", "bfloat16", "int8")}  # in another test
    assert {suspect.name for suspect in SUSPECTS} == tested
    assert len(SUSPECTS) == len(tested)


def test_base_of_the_original_paper_is_a_suspect_for_another_reference_base() -> None:
    turn = turned({"base": 77.0}, {"base": 77.0})
    given = GROUPED.given() | {
        "setting": Setting(4, 2, is_causal=True, window=WINDOW, rope="half", rope_base=77.0, softcap=CAP)
    }
    assert names(diagnose(GROUPED.run(**turn), GROUPED.run(), **given)) == {"RoPE base 10000"}


PAIRS = [
    ("cross", {"linear": kernel("k_proj"), "scale": lambda d: 1}, "k_proj not transposed + scale missing"),
    (
        "grouped",
        {"seen": ~MASK & window(WINDOW), "repeat": lambda x, n: x.repeat(1, n, 1, 1)},
        "key/value heads tiled + mask inverted",
    ),
    (
        "bert",
        {"activation": tanh_gelu, "norm": eps_norm(1e-12)},
        "GELU by tanh as activation + norm eps 1e-12",
    ),
    ("grouped", {"cap": None, "linear": unbiased("v_proj")}, "v_proj without bias + softcap missing"),
]


@pytest.mark.parametrize(("case", "wrong", "expected"), PAIRS, ids=[name for *_, name in PAIRS])
def test_two_mistakes_at_once_are_both_named(case: str, wrong: dict[str, Any], expected: str) -> None:
    diagnosis = diagnose(CASES[case].run(), CASES[case].run(**wrong), **CASES[case].given())
    assert expected in names(diagnosis)
    assert all(len(finding.suspects) == 2 and finding.after <= 1e-12 for finding in diagnosis.explanations)
    assert all(suspect.cure in diagnosis.verdict for suspect in diagnosis.explanations[0].suspects)


@pytest.mark.parametrize("case", CASES)
def test_float32_outputs_are_enough(case: str) -> None:
    reference = CASES[case].run().astype(np.float32)
    found = diagnose(
        reference, CASES[case].run(linear=kernel("v_proj")).astype(np.float32), **CASES[case].given()
    )
    assert names(found) == {"v_proj not transposed"}
    assert found.explanations[0].after < found.tolerance < 1e-5


@pytest.mark.parametrize(("bits", "expected"), [(7, "bfloat16 products"), (10, "TF32 products")])
def test_coarse_products_are_named_by_the_size_of_their_error(bits: int, expected: str) -> None:
    case = single(CROSS)
    matmul = cut_to(bits)
    rounded = {
        "matmul": matmul,
        "linear": lambda w, name, x: matmul(x, w[f"{name}.weight"].T) + w[f"{name}.bias"],
    }
    diagnosis = diagnose(case.run(), case.run(**rounded), **case.given())
    assert names(diagnosis) == {expected}
    assert "highest" in diagnosis.verdict
    both = diagnose(case.run(), case.run(**rounded, scale=lambda d: 1), **case.given())
    assert names(both) == {f"scale missing + {expected}"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["cross", "bert"])
def test_model_in_16_bits_is_distinguished_from_a_mistake(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    low = {key: x.to(dtype) for key, x in case.weights.items()}
    memory = case.x if case.memory is None else case.memory
    seen = torch.ones(1, 1, dtype=torch.bool) if case.seen is None else case.seen
    outputs = case.layer(low, case.x.to(dtype), memory.to(dtype), seen, **case.right).float()
    found = names(diagnose(case.run().astype(np.float32), outputs, **case.given()))
    assert found == {f"{str(dtype).removeprefix('torch.')} products"}


def in_int8(weight: Tensor, by_rows: bool) -> Tensor:
    if weight.ndim < 2:
        return weight
    step = (weight.abs().amax(dim=-1, keepdim=True) if by_rows else weight.abs().max()) / 127
    return (weight / step).round() * step


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights in float16", lambda w: w.half().to(w.dtype)),
        ("weights in bfloat16", lambda w: w.bfloat16().to(w.dtype)),
        ("weights in bfloat16", lambda w: w.bfloat16().to(w.dtype) if w.ndim > 1 else w),
        ("weights in int8", partial(in_int8, by_rows=True)),
        ("weights in int8", partial(in_int8, by_rows=False)),
    ],
)
def test_rounded_weights_are_named(name: str, change: Callable[[Tensor], Tensor]) -> None:
    wrong = CROSS.run(weights={key: change(w) for key, w in CROSS.weights.items()})
    diagnosis = diagnose(CROSS.run(), wrong, **CROSS.given())
    assert names(diagnosis) == {name}
    assert diagnosis.explanations[0].after <= 1e-12


@pytest.mark.parametrize("size", [3e-4, 3e-3, 1e-2])
@pytest.mark.parametrize("kind", ["noise", "scores"])
def test_error_as_large_as_rounding_is_not_called_rounding(kind: str, size: float) -> None:
    case = single(CROSS)
    reference = case.run()
    if kind == "noise":
        noise = np.random.default_rng(0).normal(size=reference.shape)
        outputs = reference + size * np.abs(reference).max() / np.abs(noise).max() * noise
    else:
        outputs = case.run(scale=lambda d: (1 + 4 * size) * d**-0.5)
    diagnosis = diagnose(reference, outputs.astype(np.float32), **case.given())
    assert (diagnosis.status, diagnosis.explanations) == ("unexplained", ())


@pytest.mark.parametrize("case", CASES)
def test_selected_queries_are_computed_as_among_all(case: str) -> None:
    port, rows = make_port(**CASES[case].given()), np.array([4, 0, 3])
    for wrong in (port, *(planted for suspect in SUSPECTS for planted in suspect.plant(port))):
        np.testing.assert_allclose(
            compute(wrong.only(1, rows)), compute(wrong)[1:, rows], rtol=1e-9, atol=1e-9, equal_nan=True
        )


def long(length: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """A layer with a slightly wrong scale, which no mistake explains, so that pairs of mistakes are tried."""
    draw = drawer(9)
    setting, weights = Setting(2, is_causal=True), random_weights(draw, 2, 2, 4, 8)
    given = {"x": draw(1, length, 8), "weights": weights, "setting": setting}
    right = compute(make_port(**given))
    return right, compute(make_port(**given | {"setting": replace(setting, scale=0.51)})), given


def test_long_sequence_is_diagnosed_from_few_of_its_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of pairs are tried: they must not recompute scores, keys and values at every position."""
    counted = {name: getattr(layer, name) for name in ("_weights", "_linear")}
    scores, mapped = [], []

    def weights(port: Any, x: Any) -> Any:
        scores.append(x.size)
        return counted["_weights"](port, x)

    def linear(port: Any, name: str, x: Any) -> Any:
        mapped.append(x.size)
        return counted["_linear"](port, name, x)

    monkeypatch.setattr(layer, "_weights", weights)
    monkeypatch.setattr(layer, "_linear", linear)
    totals = []
    for length in (96, 384):
        right, wrong, given = long(length)
        scores.clear()
        mapped.clear()
        assert diagnose(right, wrong, **given).status == "unexplained"
        assert sum(scores) < 0.5 * len(scores) * 2 * length**2
        assert sum(mapped) < 0.5 * len(mapped) * given["x"].numel()
        totals.append(sum(scores) / length)
    assert totals[1] < 2 * totals[0]


def test_sampled_positions_find_a_mistake_at_one_position() -> None:
    mask = torch.ones(2, 1, 512, 512, dtype=torch.bool)
    mask[1, 0, 301] = False
    case = CASES["plain"]._replace(x=drawer(7)(2, 512, 23), mask=mask, seen=mask)
    found = diagnose(case.run(), case.run(softmax=empty("mean")), **case.given())
    assert names(found) == {"mean for fully masked rows"}


def test_diagnosis_stops_at_its_time_limit_and_reports_what_was_tried() -> None:
    right, wrong, given = long(16)
    found = diagnose(right, wrong, **given, seconds=0)
    assert found.status == "unexplained"
    assert found.stopped.startswith("stopped after 0 s; tried: 0 of ")
    assert found.stopped in found.verdict
    assert "mistakes" in found.stopped
    assert "pairs" in found.stopped
    assert json.loads(as_json(found))["stopped"] == found.stopped
    found = diagnose(right, wrong, **given, seconds=1e6)
    assert (found.stopped, "stopped" in found.verdict) == ("", False)


def test_diagnosis_reports_progress_and_prints_none_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budget, "BETWEEN", 0.0)
    right, wrong, given = long(16)
    lines: list[str] = []
    diagnose(right, wrong, **given, progress=lines.append)
    assert lines[0].startswith("mistakes: 0 of ")
    assert lines[-1].startswith("pairs: ")
    diagnose(right, wrong, **given)
    assert capfd.readouterr() == ("", "")


LOW = {"float16": torch.float16, "bfloat16": torch.bfloat16}
WRONG_IN_LOW = {
    "zeros": lambda case: np.zeros_like(case.run()),
    "noise": lambda case: np.random.default_rng(0).normal(size=case.run().shape) * case.run().std(),
    "no scale": lambda case: case.run(scale=lambda d: 1),
    "scale twice": lambda case: case.run(scale=lambda d: 1 / d),
    "a tenth too large": lambda case: case.run() * 1.15,
}


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("wrong", WRONG_IN_LOW)
def test_tolerance_in_16_bits_is_the_reference_error(dtype: str, wrong: str) -> None:
    def low(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x).to(LOW[dtype])

    diagnosis = diagnose(CROSS.run(), low(WRONG_IN_LOW[wrong](CROSS)), **CROSS.given())
    assert diagnosis.status in ("diagnosed", "unexplained")
    assert diagnosis.tolerance <= 0.1
    if "scale" in wrong:
        assert "scale" in diagnosis.explanations[0].name
    assert diagnose(CROSS.run(), low(CROSS.run()), **CROSS.given()).status == "healthy"


@pytest.mark.parametrize("dtype", LOW)
def test_correct_layer_in_16_bits_is_healthy(dtype: str) -> None:
    low = {name: x.to(LOW[dtype]) for name, x in CROSS.weights.items()}
    assert CROSS.memory is not None
    outputs = layers.attention(
        low, CROSS.x.to(LOW[dtype]), CROSS.memory.to(LOW[dtype]), CROSS.seen, **CROSS.right
    )
    assert diagnose(CROSS.run(), outputs, **CROSS.given()).status == "healthy"


def test_large_constant_hides_no_error_in_16_bits() -> None:
    weights = CROSS.weights | {"out_proj.bias": CROSS.weights["out_proj.bias"].clone()}
    weights["out_proj.bias"][0] = 64.0
    case = CROSS._replace(weights=weights)
    wrong = torch.as_tensor(case.run(linear=kernel("v_proj"))).bfloat16()
    assert diagnose(case.run(), wrong, **case.given()).status != "healthy"


def single(case: Case) -> Case:
    """The case in float32."""
    memory = None if case.memory is None else case.memory.float()
    weights = {name: x.float() for name, x in case.weights.items()}
    return case._replace(weights=weights, x=case.x.float(), memory=memory)


def test_unknown_mistake_is_unexplained_and_the_nearest_are_listed() -> None:
    three = {"linear": kernel("k_proj"), "scale": lambda d: 1, "merge": swapped_merge}
    diagnosis = diagnose(CROSS.run(), CROSS.run(**three), **CROSS.given())
    assert (diagnosis.status, diagnosis.explanations) == ("unexplained", ())
    after = [finding.after for finding in diagnosis.ranking]
    assert after == sorted(after)
    assert 1e-12 < after[0] < diagnosis.error
    assert "head order (D, H) in out_proj" in diagnosis.ranking[0].name
    assert diagnosis.ranking[0].name in diagnosis.verdict


def test_mistakes_without_effect_are_not_listed() -> None:
    diagnosis = diagnose(CROSS.run(), CROSS.run() * 1.5, **CROSS.given())
    assert diagnosis.status == "unexplained"
    assert all(finding.after < diagnosis.error for finding in diagnosis.ranking)
    # there are no fully masked rows
    assert not any("fully masked" in finding.name for finding in diagnosis.ranking)


def test_setting_other_than_the_references_is_reported_without_a_diagnosis() -> None:
    given = CROSS.given() | {"setting": Setting(3)}
    diagnosis = diagnose(CROSS.run(), CROSS.run(linear=kernel("k_proj")), **given)
    assert (diagnosis.status, diagnosis.explanations, diagnosis.ranking) == ("other setting", (), ())
    assert "nothing was diagnosed" in diagnosis.verdict


def test_indistinguishable_mistakes_are_all_named_unless_the_port_is_callable() -> None:
    draw = drawer(6)
    right = {"heads": 3, "kv_heads": 3}
    w = random_weights(draw, 3, 3, 8, 24)
    w["k_proj.weight"], w["k_proj.bias"] = w["q_proj.weight"].clone(), w["q_proj.bias"].clone()
    case = Case(Setting(3), layers.attention, right, w, draw(2, KEY, 24))
    both = {"projections in the order v, k, q", "projections in the order v, q, k"}

    def port(weights: Weights) -> np.ndarray:
        return case.run(weights=weights, projected=order("vkq"))

    assert both <= names(diagnose(case.run(), port(w), **case.given()))
    weights_of_torch = lambda weights: port({name: torch.as_tensor(x) for name, x in weights.items()})  # noqa: E731
    assert names(diagnose(case.run(), weights_of_torch, **case.given())) == {
        "projections in the order v, k, q"
    }


def test_port_may_return_its_weights_too() -> None:
    def port(weights: Any) -> tuple[np.ndarray, None]:
        return CROSS.run(scale=lambda d: 1), None

    assert names(diagnose(CROSS.run(), port, **CROSS.given())) == {"scale missing"}


def test_layer_of_the_mirrors_is_diagnosed_with_its_own_names(rng: np.random.Generator) -> None:
    sizes = {"vocab_size": 9, "embed_dim": 24, "num_heads": 3, "num_layers": 1, "ffn_dim": 40, "max_len": KEY}
    right = EncoderLayer(EncoderConfig(**sizes, activation="gelu"))
    wrong = EncoderLayer(EncoderConfig(**sizes, activation="gelu_tanh"))
    for parameter in right.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    wrong.load_state_dict(right.state_dict())
    x = torch.as_tensor(rng.standard_normal((2, KEY, 24)), dtype=torch.float32)
    mask = torch.rand(2, 1, 1, KEY) < 0.8
    given = {"x": x, "weights": right.state_dict(), "setting": Setting(3, norm_eps=1e-12), "mask": mask}
    reference = right(x, mask).output
    assert diagnose(reference, right(x, mask).output, **given).status == "healthy"
    assert names(diagnose(reference, wrong(x, mask).output, **given)) == {"GELU by tanh as activation"}

    broken = right.state_dict() | {"attention.k_proj.weight": right.attention.k_proj.weight.detach().T}
    wrong = EncoderLayer(EncoderConfig(**sizes, activation="gelu"))
    wrong.load_state_dict(broken)
    assert names(diagnose(reference, wrong(x, mask).output, **given)) == {"k_proj not transposed"}


@pytest.mark.parametrize("seen", [0, 2])
def test_more_nan_queries_than_are_sampled_at_first(seen: int) -> None:
    mask = torch.ones(12, 12, dtype=torch.bool)
    mask[seen:] = False
    case = CASES["plain"]._replace(x=drawer(7)(2, 12, 23), mask=mask, seen=mask)
    found = names(diagnose(case.run(), case.run(softmax=empty("nan")), **case.given()))
    assert found == {"NaN for fully masked rows"}


def test_port_of_only_nan_is_unexplained() -> None:
    diagnosis = diagnose(CROSS.run(), CROSS.run() * np.nan, **CROSS.given())
    assert (diagnosis.status, diagnosis.error) == ("unexplained", np.inf)


def part_of_head(x: Tensor, first: int = 0) -> Tensor:
    return torch.cat([half_rope(x[..., :4], 10000.0, first), x[..., 4:]], dim=-1)


def no_out(w: Weights, name: str, x: Tensor) -> Tensor:
    return x if name == "out_proj" else linear(w, name, x)


def narrow_values() -> Weights:
    w = dict(CROSS.weights)
    w |= layers.affine(drawer(8), {"v_proj": (3 * 5, 18), "out_proj": (20, 3 * 5)})
    return w


OTHERS: dict[str, Case] = {
    "RoPE on part of a head": GROUPED._replace(
        setting=replace(GROUPED.setting, rope_dim=4),
        right=GROUPED.right | {"turn": (part_of_head, part_of_head)},
    ),
    "queries at an offset": CROSS._replace(
        setting=Setting(3, is_causal=True, query_offset=2, rope="half", rope_dim=4),
        right=CROSS.right | {"turn": (partial(part_of_head, first=2), part_of_head)},
        seen=causal(QUERY, KEY, 2),
    ),
    "a mask of rank 2": CROSS._replace(
        setting=Setting(3), mask=causal(QUERY, KEY, 1), seen=causal(QUERY, KEY, 1)
    ),
    "a mask of rank 3": GROUPED._replace(mask=MASK[:, 0]),
    "no out_proj": CROSS._replace(
        weights={name: x for name, x in CROSS.weights.items() if not name.startswith("out_proj")},
        right=CROSS.right | {"linear": no_out},
    ),
    "values of another size": CROSS._replace(weights=narrow_values()),
    "no biases": CROSS._replace(weights={n: x for n, x in CROSS.weights.items() if n.endswith("weight")}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_are_computed_as_in_the_reference(name: str) -> None:
    case = OTHERS[name]
    assert names(diagnose(case.run(), case.run(scale=lambda d: 1), **case.given())) == {"scale missing"}


def test_upper_left_causal_mask_is_a_suspect_for_a_lower_right_reference() -> None:
    case = OTHERS["queries at an offset"]
    diagnosis = diagnose(case.run(), case.run(seen=causal(QUERY, KEY)), **case.given())
    assert names(diagnosis) == {"causal mask in the other corner"}


def test_mistake_that_explains_only_one_sequence_is_not_named() -> None:
    one, other = CROSS.run(scale=lambda d: 1)[:1], CROSS.run()[1:] + 0.01
    assert diagnose(CROSS.run(), np.concatenate([one, other]), **CROSS.given()).status == "unexplained"


def test_only_the_nearest_mistakes_within_the_tolerance_are_named() -> None:
    case = CASES["bert"]._replace(
        setting=Setting(3, norm_eps=1e-3), right=CASES["bert"].right | {"norm": eps_norm(1e-3)}
    )
    diagnosis = diagnose(case.run().astype(np.float32), case.run(norm=eps_norm(1e-6)), **case.given())
    assert names(diagnosis) == {"norm eps 1e-06"}  # 1e-12 is within the tolerance of float32 too


def test_mistake_that_explains_part_of_a_small_difference_is_not_named() -> None:
    bert = CASES["bert"]

    def with_eps(eps: float) -> np.ndarray:
        return bert.run(norm=eps_norm(eps))

    tolerance = diagnose(bert.run().astype(np.float32), bert.run(), **bert.given()).tolerance / 2
    by_eps = error(with_eps(1e-3 + 1e-5), with_eps(1e-3)) / 1e-5
    eps = 1e-3 + 3.2 * tolerance / by_eps
    reference, wrong = with_eps(eps), with_eps(1e-3)
    port = reference + 0.75 * (wrong - reference)
    assert error(port, reference) > 2 * tolerance > 2 * error(port, wrong)
    given = bert.given() | {"setting": Setting(3, norm_eps=eps)}
    assert diagnose(reference.astype(np.float32), port, **given).status == "unexplained"


def without(name: str) -> Weights:
    return {key: x for key, x in CROSS.weights.items() if key != name}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": CROSS.x[0]}, r"x must have shape \(batch, length, features\), got \(5, 20\)"),
    ({"x": CROSS.x.long()}, "x must be floating-point, got int64"),
    ({"x": CROSS.x * torch.nan}, "x must be finite"),
    ({"x": CROSS.x[..., :19]}, r"q_proj.weight must have shape \(24, 19\), got \(24, 20\)"),
    ({"x": object()}, "x must be floating-point, got object"),
    ({"memory": CROSS.x[:1]}, "memory must have the batch of x, 2"),
    ({"memory": None}, r"k_proj.weight must have shape \(24, 20\), got \(24, 18\)"),
    ({"weights": {}}, "weights must hold one q_proj.weight, got nothing"),
    ({"weights": without("k_proj.weight")}, "weights must hold k_proj.weight"),
    (
        {"weights": CROSS.weights | {"gate.weight": CROSS.x}},
        "weights hold gate.weight, which is not a weight of a layer",
    ),
    (
        {"weights": CROSS.weights | {"v_proj.bias": CROSS.x[0, 0]}},
        r"v_proj.bias must have shape \(24,\), got \(20,\)",
    ),
    ({"weights": without("out_proj.weight")}, "weights must hold out_proj.weight beside out_proj.bias"),
    ({"setting": Setting(5)}, "q_proj.weight must have a multiple of 5 rows"),
    (
        {"mask": torch.ones(QUERY, KEY)},
        "mask must be boolean, True where the query attends to the key, got float32",
    ),
    ({"mask": torch.ones(KEY, QUERY) > 0}, r"mask must have shape \(query, key\)"),
    ({"mask": torch.ones(4, 2, 3, QUERY, KEY) > 0}, r"mask must have shape \(query, key\)"),
]


@pytest.mark.parametrize(("changed", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_input_raises_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{sentence}"):
        diagnose(CROSS.run(), CROSS.run(), **(CROSS.given() | changed))


@pytest.mark.parametrize(
    ("reference", "candidate", "sentence"),
    [
        (CROSS.run()[:1], CROSS.run(), r"reference_outputs must have shape \(2, 5, 20\), got \(1, 5, 20\)"),
        (CROSS.run() * np.nan, CROSS.run(), "reference_outputs must be finite"),
        (
            CROSS.run(),
            CROSS.run()[:, :4],
            r"candidate must have the shape of reference_outputs, \(2, 5, 20\)",
        ),
        (CROSS.run(), CROSS.run().astype(int), "candidate must be floating-point, got int64"),
    ],
)
def test_bad_outputs_raise(reference: Any, candidate: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{sentence}"):
        diagnose(reference, candidate, **CROSS.given())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_heads": 0}, "num_heads must be positive, got 0"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads=4 must be a multiple of num_kv_heads=3"),
        ({"num_heads": 4, "window": 3}, "window=3 needs is_causal=True"),
        ({"num_heads": 4, "rope": "full"}, "rope must be one of none, half, interleaved, got 'full'"),
        ({"num_heads": 4, "norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        (
            {"num_heads": 4, "activation": "silu"},
            "activation must be one of relu, gelu, gelu_tanh, got 'silu'",
        ),
        ({"num_heads": 4, "norm_eps": -1.0}, "norm_eps must not be negative"),
        ({"num_heads": 4, "rope_dim": 3}, "rope_dim must be even, got 3"),
    ],
)
def test_bad_setting_raises(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Setting(**values)


run = CliRunner().invoke
HEADS = ["--heads", "4", "--kv-heads", "2"]
OPTIONS = [*HEADS, "--causal", "--window", "3", "--rope", "half", "--softcap", str(CAP)]


def write(path: Path, candidate: np.ndarray, weights: dict[str, Any] | None = None) -> str:
    arrays = {"x": GROUPED.x, "mask": GROUPED.mask, "reference": GROUPED.run(), "candidate": candidate}
    arrays |= GROUPED.weights if weights is None else weights
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(x) for name, x in arrays.items()})
    else:
        save_file({name: torch.as_tensor(x).contiguous() for name, x in arrays.items()}, path)
    return str(path)


@pytest.mark.parametrize("name", ["case.npz", "case.safetensors"])
def test_command_names_the_transposed_matrix_and_exits_with_1(tmp_path: Path, name: str) -> None:
    case = write(tmp_path / name, GROUPED.run(linear=kernel("k_proj")))
    result = run(app, ["doctor", case, *OPTIONS])
    assert result.exit_code == 1
    assert "DIAGNOSED: the port uses the weight of k_proj without transposing it" in result.stdout
    assert "transpose the weight of k_proj" in result.stdout
    [row] = [line for line in result.stdout.splitlines() if line.rstrip().endswith("explains")]
    assert row.startswith("k_proj not transposed")


def test_command_finds_a_correct_port_healthy_and_exits_with_0(tmp_path: Path) -> None:
    result = run(app, ["doctor", write(tmp_path / "case.npz", GROUPED.run()), *OPTIONS])
    assert result.exit_code == 0
    assert result.stdout.startswith("HEALTHY: ")


def test_command_prints_json_with_null_for_nan(tmp_path: Path) -> None:
    case = write(tmp_path / "case.npz", GROUPED.run(softmax=empty("nan")))
    result = run(app, ["doctor", case, *OPTIONS, "--json"])
    assert result.exit_code == 1
    printed = json.loads(result.stdout, parse_constant=pytest.fail)
    [found] = printed["explanations"]
    assert found["suspects"] == ["NaN for fully masked rows"]
    assert (printed["status"], printed["error"], found["before"]) == ("diagnosed", None, None)
    assert found["after"] <= printed["tolerance"]


def test_command_takes_weights_of_other_layouts(tmp_path: Path) -> None:
    def linen(name: str, x: Tensor) -> Tensor:
        return x.T if name.endswith("weight") else x

    weights = {
        f"params.layer.{name.replace('weight', 'kernel')}": linen(name, x)
        for name, x in GROUPED.weights.items()
    }
    case = write(tmp_path / "case.npz", GROUPED.run(scale=lambda d: 1), weights)
    result = run(app, ["doctor", case, *OPTIONS, "--from", "linen"])
    assert result.exit_code == 1
    assert "scale missing" in result.stdout


def test_command_rejects_bad_input_in_one_sentence_with_exit_code_2(tmp_path: Path) -> None:
    case = write(tmp_path / "case.npz", GROUPED.run(scale=lambda d: 1))
    bare = tmp_path / "bare.npz"
    np.savez(bare, x=np.ones((2, 3, 4)))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 and no more")
    for arguments, sentence in (
        ([str(tmp_path / "none.npz"), *OPTIONS], "none.npz does not exist"),
        ([str(tmp_path / "none.safetensors"), *OPTIONS], "none.safetensors does not exist"),
        ([str(broken), *OPTIONS], "broken.npz cannot be read as .npz"),
        ([str(bare), *OPTIONS], "bare.npz must hold x, reference and candidate, but has no reference"),
        ([case, *HEADS], "the given setting, weights or inputs do not match the reference"),
        ([case, *HEADS, "--window", "3"], "--window=3 needs --causal"),
        (
            [case, *OPTIONS, "--from", "xxxxx"],
            "--from: unknown layout 'xxxxx'; `attention-bridge layouts` lists all",
        ),
    ):
        result = run(app, ["doctor", *arguments])
        assert result.exit_code == 2, arguments
        assert result.stdout == ""
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr
