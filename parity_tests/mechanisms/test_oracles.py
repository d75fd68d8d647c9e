"""Tests of the oracles: against hand-computed values, and against independent implementations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from attention_bridge import oracles
from attention_bridge.oracles import common

Array = np.ndarray
Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, Tensor]

TOLERANCE = 1e-12
SAMPLE = 20

# Within a test every axis has its own size, so that no two can be confused. With several heads:
HEADS, HEAD_DIM, BATCH, QUERY, EMBED, KEY, FFN = 2, 3, 4, 5, 6, 7, 8
# And with one head, which has neither a head axis nor a head dim:
VALUE_DIM, QUERY_DIM, KEY_DIM, HIDDEN = 2, 3, 8, 9


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20140901)


def draw(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def draw_linear(rng: np.random.Generator, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """A random weight (out, in) and a random bias for each name."""
    parameters = {}
    for name, (out_dim, in_dim) in shapes.items():
        parameters[f"{name}.weight"] = rng.normal(size=(out_dim, in_dim)) / math.sqrt(in_dim)
        parameters[f"{name}.bias"] = rng.normal(size=out_dim)
    return parameters


def draw_attention(
    rng: np.random.Generator, name: str = "", parts: Sequence[str] = ("q", "k", "v", "out")
) -> dict[str, Array]:
    return draw_linear(rng, {f"{name}{part}_proj": (EMBED, EMBED) for part in parts})


def draw_norm(rng: np.random.Generator, name: str) -> dict[str, Array]:
    return {f"{name}.weight": rng.normal(size=EMBED), f"{name}.bias": rng.normal(size=EMBED)}


def draw_mask(rng: np.random.Generator, *shape: int) -> Array:
    """A random mask that shows about half of the keys, and always the first: no row is fully masked."""
    mask = rng.random(shape) < 0.5
    mask[..., 0] = True
    return mask


def error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


def prove(
    oracle: Callable[[Arrays], Sequence[Array]],
    peer: Callable[[Tensors], Sequence[Tensor]],
    tensors: Arrays,
    rng: np.random.Generator,
) -> None:
    """Compare outputs, and gradients of every tensor: complex steps in the oracle, autograd in the peer."""
    leaves = {name: torch.tensor(tensor, requires_grad=True) for name, tensor in tensors.items()}
    expected = peer(leaves)
    actual = oracle(tensors)
    for ours, theirs in zip(actual, expected, strict=True):
        assert error(ours, theirs.detach().numpy()) <= TOLERANCE

    cotangents = [rng.normal(size=output.shape) for output in actual]
    loss = sum((torch.from_numpy(c) * output).sum() for c, output in zip(cotangents, expected, strict=True))
    loss.backward()

    # A complex step costs one evaluation, so only a sample of each tensor's elements is tested.
    sample = {name: rng.permutation(tensor.size)[:SAMPLE] for name, tensor in tensors.items()}

    def oracle_of_sample(elements: Arrays) -> Sequence[Array]:
        stepped = {name: tensor.astype(elements[name].dtype) for name, tensor in tensors.items()}
        for name, tensor in stepped.items():
            tensor.flat[sample[name]] = elements[name]
        return oracle(stepped)

    elements = {name: tensor.flat[sample[name]] for name, tensor in tensors.items()}
    gradients = oracles.gradient(oracle_of_sample, elements, cotangents)
    size = {name: leaf.grad.abs().max().item() for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        # A shift common to all keys cancels in a dot-product softmax: its gradient is zero up to rounding.
        vanishes = name.endswith("k_proj.bias") and "score_proj.weight" not in leaves
        scale = max(size.values()) if vanishes else size[name]
        difference = gradients[name] - leaf.grad.numpy().flat[sample[name]]
        assert np.abs(difference).max() <= TOLERANCE * scale, name


def naive_softmax(scores: Tensor, mask: Array | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(~torch.from_numpy(mask), -math.inf)
    return scores.softmax(dim=-1)


# --- Hand-computed values ---


def test_score_higher_by_log_three_has_three_times_the_weight() -> None:
    query = np.array([[[math.log(3)]]])
    key = np.array([[[1.0], [0.0]]])
    value = np.array([[[4.0], [8.0]]])
    output, weights = oracles.scaled_dot_product_attention({}, query, key, value)
    np.testing.assert_allclose(weights, [[[3 / 4, 1 / 4]]], rtol=1e-15)
    np.testing.assert_allclose(output, [[[5.0]]], rtol=1e-15)


def test_scaling_halves_the_score_in_four_dimensions_and_luong_does_not_scale() -> None:
    query = np.array([[[2 * math.log(3), 0.0, 0.0, 0.0]]])
    key = np.array([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    _, scaled = oracles.scaled_dot_product_attention({}, query, key, key)
    _, unscaled = oracles.luong_dot_attention({}, query, key, key)
    np.testing.assert_allclose(scaled, [[[3 / 4, 1 / 4]]], rtol=1e-15)
    np.testing.assert_allclose(unscaled, [[[9 / 10, 1 / 10]]], rtol=1e-15)


def test_luong_general_reads_its_weight_as_query_by_key() -> None:
    query = np.array([[[1.0, 0.0]]])
    key = np.array([[[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
    weight = np.array([[0.0, 0.0, math.log(3)], [5.0, 6.0, 7.0]])
    _, weights = oracles.luong_general_attention({"score.proj.weight": weight}, query, key, key)
    np.testing.assert_allclose(weights, [[[3 / 4, 1 / 4]]], rtol=1e-15)


def test_luong_concat_puts_the_query_before_the_key() -> None:
    query, key = np.array([[[1.0]]]), np.array([[[0.0], [-2.0]]])
    parameters = {
        "score.concat_proj.weight": np.array([[2.0, 1.0]]),  # tanh(2 s + h): tanh 2, then tanh 0
        "score.score_proj.weight": np.array([[math.log(3) / math.tanh(2)]]),
    }
    _, weights = oracles.luong_concat_attention(parameters, query, key, key)
    np.testing.assert_allclose(weights, [[[3 / 4, 1 / 4]]], rtol=1e-15)


@pytest.mark.parametrize("bias", [None, 0.5])
def test_basic_attention_adds_query_key_and_bias_inside_the_tanh(bias: float | None) -> None:
    query, key = np.array([[[1.0]]]), np.array([[[0.0], [1.0]]])
    shift = 0.0 if bias is None else bias
    parameters = {
        "q_proj.weight": np.array([[2.0]]),
        "k_proj.weight": np.array([[-2.0 - shift]]),  # the second key: tanh(2 + shift - 2 - shift) = 0
        "score_proj.weight": np.array([[math.log(3) / math.tanh(2 + shift)]]),
    }
    if bias is not None:
        parameters["k_proj.bias"] = np.array([bias])
    _, weights = oracles.basic_attention(parameters, query, key, key)
    np.testing.assert_allclose(weights, [[[3 / 4, 1 / 4]]], rtol=1e-15)


def test_causal_queries_over_equal_scores_average_the_past() -> None:
    query = key = np.zeros((1, 1, 4, 2))
    value = np.array([[[[1.0], [3.0], [5.0], [7.0]]]])
    output, weights = oracles.dot_product_attention(query, key, value, is_causal=True)
    np.testing.assert_allclose(output[0, 0, :, 0], [1, 2, 3, 4], rtol=1e-15)
    assert np.array_equal(weights[0, 0] > 0, np.tri(4, dtype=bool))


def test_window_of_two_shows_the_own_key_and_the_one_before() -> None:
    zeros = np.zeros((1, 1, 4, 2))
    _, weights = oracles.dot_product_attention(zeros, zeros, zeros, is_causal=True, window=2)
    np.testing.assert_array_equal(
        weights[0, 0], [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]
    )


def test_query_head_three_of_six_uses_the_second_of_two_key_heads() -> None:
    query, key = np.zeros((1, 6, 1, 1)), np.zeros((1, 2, 1, 1))
    value = np.array([10.0, 20.0]).reshape(1, 2, 1, 1)
    output, _ = oracles.dot_product_attention(query, key, value)
    assert output.ravel().tolist() == [10, 10, 10, 20, 20, 20]


def test_dropout_scales_kept_values_and_leaves_the_weights_unchanged() -> None:
    query, key = np.zeros((1, 1, 2)), np.zeros((1, 4, 2))
    value = np.array([[[1.0], [2.0], [3.0], [4.0]]])
    keep = np.array([[[True, False, False, True]]])
    output, weights = oracles.scaled_dot_product_attention(
        {}, query, key, value, dropout_keep=keep, dropout_rate=0.5
    )
    assert output.item() == (1 + 4) / 4 / 0.5
    assert weights.tolist() == [[[0.25, 0.25, 0.25, 0.25]]]


def test_softcap_comes_after_scale_and_bias_and_before_the_mask() -> None:
    query, key = np.full((1, 1, 1, 1), 100.0), np.array([1.0, 1.0, 0.0]).reshape(1, 1, 3, 1)
    bias, mask = np.array([[-60.0, 0.0, 1e9]]), np.array([[True, True, False]])
    _, weights = oracles.dot_product_attention(query, key, key, bias, mask, scale=0.5, softcap=2.0)
    scores = [2 * math.tanh((0.5 * 100 - 60) / 2), 2 * math.tanh(0.5 * 100 / 2)]
    odds = math.exp(scores[1] - scores[0])
    np.testing.assert_allclose(weights[0, 0, 0], [1 / (1 + odds), odds / (1 + odds), 0], rtol=1e-14)


def test_layer_norm_divides_by_the_biased_variance() -> None:
    parameters = {"norm.weight": np.array([1.0, 10.0]), "norm.bias": np.array([0.0, 5.0])}
    assert common.layer_norm(parameters, "norm", np.array([1.0, 3.0]), 0.0).tolist() == [-1, 15]


def test_activations_have_their_known_values() -> None:
    x = np.array([-1.0, 0.0, 1.0])
    below_one = 0.8413447460685429  # Φ(1)
    assert common.relu(x).tolist() == [0, 0, 1]
    np.testing.assert_allclose(common.gelu(x), [below_one - 1, 0, below_one], rtol=1e-15)
    np.testing.assert_allclose(common.gelu_tanh(x)[2], 0.841191990608276, rtol=1e-14)


def test_complex_step_differentiates_a_cube_exactly() -> None:
    x = np.array([[2.0, -3.0, 0.5], [1e-9, -7.0, 1e9]])
    cubes = oracles.gradient(lambda t: [t["x"] ** 3, None], {"x": x}, [np.ones_like(x), None])
    np.testing.assert_allclose(cubes["x"], 3 * x**2, rtol=1e-15)


def test_cotangent_for_no_output_raises() -> None:
    x = np.ones(1)
    with pytest.raises(ValueError, match="cotangents"):
        oracles.gradient(lambda t: [t["x"], None], {"x": x}, [x, x])


# --- Masks ---


def test_every_rank_of_one_mask_means_the_same(rng: np.random.Generator) -> None:
    query = rng.normal(size=(BATCH, HEADS, QUERY, HEAD_DIM))
    key = rng.normal(size=(BATCH, HEADS, KEY, HEAD_DIM))
    mask = draw_mask(rng, QUERY, KEY)
    everywhere = np.broadcast_to(mask, (BATCH, HEADS, QUERY, KEY))
    _, expected = oracles.dot_product_attention(query, key, key, mask=everywhere)
    assert np.array_equal(expected > 0, everywhere)
    for same in (mask, everywhere[:, 0], mask[None, None], everywhere[:, :1], everywhere[:1]):
        assert np.array_equal(oracles.dot_product_attention(query, key, key, mask=same)[1], expected)


def test_padding_mask_hides_its_keys_from_every_query(rng: np.random.Generator) -> None:
    query = rng.normal(size=(BATCH, HEADS, QUERY, HEAD_DIM))
    key = rng.normal(size=(BATCH, HEADS, KEY, HEAD_DIM))
    padding = draw_mask(rng, BATCH, 1, 1, KEY)
    _, weights = oracles.dot_product_attention(query, key, key, mask=padding)
    assert np.array_equal(weights > 0, np.broadcast_to(padding, weights.shape))


def test_mask_that_is_not_boolean_raises() -> None:
    x = np.zeros((1, 2, 3))
    with pytest.raises(TypeError, match="expected bool"):
        oracles.scaled_dot_product_attention({}, x, x, x, np.ones((2, 2)))


def test_window_without_causality_raises() -> None:
    x = np.zeros((1, 1, 2, 3))
    with pytest.raises(ValueError, match="is_causal"):
        oracles.dot_product_attention(x, x, x, window=1)


def test_fully_masked_row_is_exactly_zero_and_so_is_its_gradient(rng: np.random.Generator) -> None:
    tensors = draw(rng, query=(BATCH, QUERY, EMBED), key=(BATCH, KEY, EMBED), value=(BATCH, KEY, VALUE_DIM))
    mask = draw_mask(rng, BATCH, QUERY, KEY)
    mask[1, 3] = False
    mask[2] = False

    def oracle(t: Arrays) -> Sequence[Array]:
        return oracles.scaled_dot_product_attention({}, t["query"], t["key"], t["value"], mask)

    output, weights = oracle(tensors)
    empty = ~mask.any(axis=-1)
    assert not output[empty].any()
    assert not weights[empty].any()
    np.testing.assert_allclose(weights[~empty].sum(axis=-1), 1, rtol=1e-14)

    gradients = oracles.gradient(oracle, tensors, [np.ones_like(output), np.ones_like(weights)])
    assert not gradients["query"][empty].any()
    assert not gradients["key"][2].any()
    assert not gradients["value"][2].any()
    assert all(np.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_minus_infinity_in_the_bias_equals_a_mask(rng: np.random.Generator, softcap: float | None) -> None:
    query = rng.normal(size=(BATCH, HEADS, QUERY, HEAD_DIM))
    key = rng.normal(size=(BATCH, HEADS, KEY, HEAD_DIM))
    bias = rng.normal(size=(BATCH, HEADS, QUERY, KEY))
    mask = draw_mask(rng, BATCH, HEADS, QUERY, KEY)
    mask[1, 1, 3] = False
    by_mask = oracles.dot_product_attention(query, key, key, bias, mask, softcap=softcap)
    by_bias = oracles.dot_product_attention(query, key, key, np.where(mask, bias, -np.inf), softcap=softcap)
    for left, right in zip(by_mask, by_bias, strict=True):
        assert np.array_equal(left, right)


@pytest.mark.parametrize("window", [None, 3])
def test_queries_at_an_offset_are_the_last_rows_of_the_full_pass(
    rng: np.random.Generator, window: int | None
) -> None:
    query, key = rng.normal(size=(2, BATCH, HEADS, KEY, HEAD_DIM))
    full, _ = oracles.dot_product_attention(query, key, key, is_causal=True, window=window)
    last, _ = oracles.dot_product_attention(
        query[:, :, -3:], key, key, is_causal=True, window=window, query_offset=KEY - 3
    )
    assert np.array_equal(last, full[:, :, -3:])


# --- Peers: outputs and gradients ---


@pytest.mark.parametrize("with_bias", [True, False])
def test_basic_attention_and_its_gradient_agree_with_autograd(
    rng: np.random.Generator, with_bias: bool
) -> None:
    mask = draw_mask(rng, BATCH, QUERY, KEY)
    tensors = draw(
        rng, query=(BATCH, QUERY, QUERY_DIM), key=(BATCH, KEY, KEY_DIM), value=(BATCH, KEY, VALUE_DIM)
    )
    tensors["q_proj.weight"] = rng.normal(size=(HIDDEN, QUERY_DIM))
    tensors["k_proj.weight"] = rng.normal(size=(HIDDEN, KEY_DIM))
    tensors["score_proj.weight"] = rng.normal(size=(1, HIDDEN))
    if with_bias:
        tensors["k_proj.bias"] = rng.normal(size=HIDDEN)

    def peer(t: Tensors) -> Sequence[Tensor]:
        query = F.linear(t["query"], t["q_proj.weight"])
        key = F.linear(t["key"], t["k_proj.weight"], t.get("k_proj.bias"))
        hidden = torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))
        weights = naive_softmax(F.linear(hidden, t["score_proj.weight"]).squeeze(-1), mask)
        return torch.bmm(weights, t["value"]), weights

    prove(lambda t: oracles.basic_attention(t, t["query"], t["key"], t["value"], mask), peer, tensors, rng)


def test_luong_dot_and_its_gradient_agree_with_autograd(rng: np.random.Generator) -> None:
    mask = draw_mask(rng, QUERY, KEY)
    tensors = draw(
        rng, query=(BATCH, QUERY, KEY_DIM), key=(BATCH, KEY, KEY_DIM), value=(BATCH, KEY, VALUE_DIM)
    )

    def peer(t: Tensors) -> Sequence[Tensor]:
        weights = naive_softmax(torch.bmm(t["query"], t["key"].mT), mask)
        return torch.bmm(weights, t["value"]), weights

    prove(
        lambda t: oracles.luong_dot_attention(t, t["query"], t["key"], t["value"], mask), peer, tensors, rng
    )


def test_luong_general_and_its_gradient_agree_with_torch_bilinear(rng: np.random.Generator) -> None:
    mask = draw_mask(rng, BATCH, QUERY, KEY)
    tensors = draw(
        rng, query=(BATCH, QUERY, QUERY_DIM), key=(BATCH, KEY, KEY_DIM), value=(BATCH, KEY, VALUE_DIM)
    )
    tensors["score.proj.weight"] = rng.normal(size=(QUERY_DIM, KEY_DIM))

    def peer(t: Tensors) -> Sequence[Tensor]:
        query = t["query"].unsqueeze(2).expand(-1, -1, KEY, -1).contiguous()
        key = t["key"].unsqueeze(1).expand(-1, QUERY, -1, -1).contiguous()
        weights = naive_softmax(F.bilinear(query, key, t["score.proj.weight"].unsqueeze(0)).squeeze(-1), mask)
        return torch.bmm(weights, t["value"]), weights

    prove(
        lambda t: oracles.luong_general_attention(t, t["query"], t["key"], t["value"], mask),
        peer,
        tensors,
        rng,
    )


def test_luong_concat_and_its_gradient_agree_with_autograd(rng: np.random.Generator) -> None:
    mask = draw_mask(rng, BATCH, 1, 1, KEY)
    tensors = draw(
        rng, query=(BATCH, QUERY, QUERY_DIM), key=(BATCH, KEY, KEY_DIM), value=(BATCH, KEY, VALUE_DIM)
    )
    tensors["score.concat_proj.weight"] = rng.normal(size=(HIDDEN, QUERY_DIM + KEY_DIM))
    tensors["score.score_proj.weight"] = rng.normal(size=(1, HIDDEN))

    def peer(t: Tensors) -> Sequence[Tensor]:
        query = t["query"].unsqueeze(2).expand(-1, -1, KEY, -1)
        key = t["key"].unsqueeze(1).expand(-1, QUERY, -1, -1)
        hidden = torch.tanh(F.linear(torch.cat([query, key], dim=-1), t["score.concat_proj.weight"]))
        weights = naive_softmax(F.linear(hidden, t["score.score_proj.weight"]).squeeze(-1), mask[:, 0])
        return torch.bmm(weights, t["value"]), weights

    prove(
        lambda t: oracles.luong_concat_attention(t, t["query"], t["key"], t["value"], mask),
        peer,
        tensors,
        rng,
    )


@pytest.mark.parametrize("hidden_by", ["nothing", "mask", "bias", "causality"])
def test_dot_product_attention_and_its_gradient_agree_with_torch_sdpa(
    rng: np.random.Generator, hidden_by: str
) -> None:
    tensors = draw(
        rng,
        query=(BATCH, HEADS, QUERY, HEAD_DIM),
        key=(BATCH, HEADS, KEY, HEAD_DIM),
        value=(BATCH, HEADS, KEY, EMBED),
    )
    mask = draw_mask(rng, BATCH, 1, QUERY, KEY) if hidden_by == "mask" else None
    is_causal = hidden_by == "causality"
    if hidden_by == "bias":
        tensors["bias"] = rng.normal(size=(1, HEADS, QUERY, KEY))

    def oracle(t: Arrays) -> Sequence[Array]:
        output, _ = oracles.dot_product_attention(
            t["query"], t["key"], t["value"], t.get("bias"), mask, is_causal=is_causal
        )
        return [output]

    def peer(t: Tensors) -> Sequence[Tensor]:
        attn_mask = t.get("bias") if mask is None else torch.from_numpy(mask)
        return [
            F.scaled_dot_product_attention(t["query"], t["key"], t["value"], attn_mask, is_causal=is_causal)
        ]

    prove(oracle, peer, tensors, rng)


def test_grouped_heads_agree_with_torch_sdpa_enable_gqa(rng: np.random.Generator) -> None:
    tensors = draw(rng, query=(3, 4, QUERY, EMBED), key=(3, 2, KEY, EMBED), value=(3, 2, KEY, FFN))

    def peer(t: Tensors) -> Sequence[Tensor]:
        return [F.scaled_dot_product_attention(t["query"], t["key"], t["value"], scale=0.7, enable_gqa=True)]

    prove(
        lambda t: oracles.dot_product_attention(t["query"], t["key"], t["value"], scale=0.7)[:1],
        peer,
        tensors,
        rng,
    )


def test_window_softcap_and_dropout_agree_with_autograd(rng: np.random.Generator) -> None:
    tensors = draw(
        rng,
        query=(BATCH, HEADS, QUERY, HEAD_DIM),
        key=(BATCH, HEADS, KEY, HEAD_DIM),
        value=(BATCH, HEADS, KEY, EMBED),
        bias=(QUERY, KEY),
    )
    keep = rng.random((BATCH, HEADS, QUERY, KEY)) < 0.7

    def oracle(t: Arrays) -> Sequence[Array]:
        return oracles.dot_product_attention(
            t["query"],
            t["key"],
            t["value"],
            t["bias"],
            is_causal=True,
            window=3,
            query_offset=1,
            softcap=0.8,
            dropout_keep=keep,
            dropout_rate=0.3,
        )

    def peer(t: Tensors) -> Sequence[Tensor]:
        scores = torch.einsum("bhqd,bhkd->bhqk", t["query"], t["key"]) / HEAD_DIM**0.5 + t["bias"]
        band = torch.ones(QUERY, KEY, dtype=torch.bool).tril(1).triu(-1)
        weights = naive_softmax(0.8 * torch.tanh(scores / 0.8), band.numpy())
        return (weights * torch.from_numpy(keep) / 0.7) @ t["value"], weights

    prove(oracle, peer, tensors, rng)


def to_torch_attention(t: Tensors, name: str = "") -> dict[str, Tensor]:
    """Weights for `nn.MultiheadAttention`, which stacks query, key and value in one tensor."""
    return {
        "in_proj_weight": torch.cat([t[f"{name}{part}_proj.weight"] for part in "qkv"]),
        "in_proj_bias": torch.cat([t[f"{name}{part}_proj.bias"] for part in "qkv"]),
        "out_proj.weight": t[f"{name}out_proj.weight"],
        "out_proj.bias": t[f"{name}out_proj.bias"],
    }


def torch_attention_peer(
    t: Tensors, num_heads: int, query: Tensor, memory: Tensor, mask: Array | None
) -> Sequence[Tensor]:
    module = nn.MultiheadAttention(EMBED, num_heads, batch_first=True, dtype=torch.float64)
    hidden = None if mask is None else ~torch.from_numpy(mask).repeat_interleave(num_heads, dim=0)
    return functional_call(
        module,
        to_torch_attention(t),
        (query, memory, memory),
        {"attn_mask": hidden, "average_attn_weights": False},
    )


def test_multi_head_self_attention_agrees_with_torch(rng: np.random.Generator) -> None:
    mask = draw_mask(rng, BATCH, QUERY, QUERY)
    prove(
        lambda t: oracles.multi_head_self_attention(t, t["x"], mask, num_heads=HEADS),
        lambda t: torch_attention_peer(t, HEADS, t["x"], t["x"], mask),
        draw_attention(rng) | draw(rng, x=(BATCH, QUERY, EMBED)),
        rng,
    )


def test_causal_self_attention_agrees_with_torch(rng: np.random.Generator) -> None:
    mask = draw_mask(rng, BATCH, QUERY, QUERY)
    prove(
        lambda t: oracles.causal_self_attention(t, t["x"], mask, num_heads=HEADS),
        lambda t: torch_attention_peer(t, HEADS, t["x"], t["x"], mask & np.tri(QUERY, dtype=bool)),
        draw_attention(rng) | draw(rng, x=(BATCH, QUERY, EMBED)),
        rng,
    )


def test_multi_head_cross_attention_agrees_with_torch(rng: np.random.Generator) -> None:
    mask = draw_mask(rng, BATCH, QUERY, KEY)
    prove(
        lambda t: oracles.multi_head_cross_attention(t, t["x"], t["memory"], mask, num_heads=HEADS),
        lambda t: torch_attention_peer(t, HEADS, t["x"], t["memory"], mask),
        draw_attention(rng) | draw(rng, x=(BATCH, QUERY, EMBED), memory=(BATCH, KEY, EMBED)),
        rng,
    )


def test_self_attention_is_torch_attention_with_one_head_and_no_output_projection(
    rng: np.random.Generator,
) -> None:
    mask = draw_mask(rng, BATCH, QUERY, QUERY)

    def peer(t: Tensors) -> Sequence[Tensor]:
        one = torch.eye(EMBED, dtype=torch.float64)
        identity = {"out_proj.weight": one, "out_proj.bias": 0 * one[0]}
        output, weights = torch_attention_peer({**t, **identity}, 1, t["x"], t["x"], mask)
        return output, weights[:, 0]

    tensors = draw_attention(rng, parts="qkv") | draw(rng, x=(BATCH, QUERY, EMBED))
    prove(lambda t: oracles.self_attention(t, t["x"], mask), peer, tensors, rng)


def test_cross_attention_with_its_own_input_sizes_agrees_with_torch_sdpa(rng: np.random.Generator) -> None:
    shapes = {"q_proj": (EMBED, QUERY_DIM), "k_proj": (EMBED, KEY_DIM), "v_proj": (EMBED, KEY_DIM)}
    tensors = draw_linear(rng, shapes)
    tensors |= draw(rng, x=(BATCH, QUERY, QUERY_DIM), memory=(BATCH, KEY, KEY_DIM))
    mask = draw_mask(rng, BATCH, QUERY, KEY)

    def peer(t: Tensors) -> Sequence[Tensor]:
        query, key, value = (
            F.linear(source, t[f"{part}_proj.weight"], t[f"{part}_proj.bias"])
            for part, source in (("q", t["x"]), ("k", t["memory"]), ("v", t["memory"]))
        )
        return [F.scaled_dot_product_attention(query, key, value, torch.from_numpy(mask))]

    prove(lambda t: oracles.cross_attention(t, t["x"], t["memory"], mask)[:1], peer, tensors, rng)


def test_dropout_reaches_every_mechanism_of_one_head(rng: np.random.Generator) -> None:
    x, memory = rng.normal(size=(BATCH, QUERY, EMBED)), rng.normal(size=(BATCH, KEY, EMBED))
    keep = rng.random((BATCH, QUERY, KEY)) < 0.7
    parameters = draw_attention(rng, parts="qkv")
    parameters["score_proj.weight"] = parameters["score.score_proj.weight"] = rng.normal(size=(1, EMBED))
    parameters["score.proj.weight"] = rng.normal(size=(EMBED, EMBED))
    parameters["score.concat_proj.weight"] = rng.normal(size=(EMBED, 2 * EMBED))

    for attention in (
        oracles.basic_attention,
        oracles.luong_dot_attention,
        oracles.luong_general_attention,
        oracles.luong_concat_attention,
        oracles.scaled_dot_product_attention,
    ):
        output, weights = attention(parameters, x, memory, memory, dropout_keep=keep, dropout_rate=0.3)
        assert error(output, (weights * keep / 0.7) @ memory) <= TOLERANCE

    output, weights = oracles.cross_attention(parameters, x, memory, dropout_keep=keep, dropout_rate=0.3)
    assert error(output, (weights * keep / 0.7) @ common.linear(parameters, "v_proj", memory)) <= TOLERANCE

    keep = keep[:, :, :QUERY]
    output, weights = oracles.self_attention(parameters, x, dropout_keep=keep, dropout_rate=0.3)
    assert error(output, (weights * keep / 0.7) @ common.linear(parameters, "v_proj", x)) <= TOLERANCE


def test_dropout_reaches_every_mechanism_of_many_heads(rng: np.random.Generator) -> None:
    x, memory = rng.normal(size=(BATCH, QUERY, EMBED)), rng.normal(size=(BATCH, KEY, EMBED))
    keep = rng.random((BATCH, HEADS, QUERY, KEY)) < 0.7
    parameters = draw_attention(rng)

    def expected(weights: Array, keep: Array, source: Array) -> Array:
        value = common.linear(parameters, "v_proj", source).reshape(BATCH, -1, HEADS, HEAD_DIM)
        heads = np.einsum("bhqk,bkhd->bqhd", weights * keep / 0.7, value)
        return common.linear(parameters, "out_proj", heads.reshape(BATCH, QUERY, EMBED))

    output, weights = oracles.multi_head_cross_attention(
        parameters, x, memory, num_heads=HEADS, dropout_keep=keep, dropout_rate=0.3
    )
    assert error(output, expected(weights, keep, memory)) <= TOLERANCE

    keep = keep[..., :QUERY]
    for attention in (oracles.multi_head_self_attention, oracles.causal_self_attention):
        output, weights = attention(parameters, x, num_heads=HEADS, dropout_keep=keep, dropout_rate=0.3)
        assert error(output, expected(weights, keep, x)) <= TOLERANCE


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_and_its_gradient_agree_with_torch(rng: np.random.Generator, approximate: str) -> None:
    ours = common.gelu if approximate == "none" else common.gelu_tanh
    x = np.concatenate([np.linspace(-6, 6, 41), rng.normal(size=20)])
    prove(lambda t: [ours(t["x"])], lambda t: [F.gelu(t["x"], approximate=approximate)], {"x": x}, rng)


@pytest.mark.slow
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_encoder_decoder_attention_agrees_with_torch_decoder_layer(
    rng: np.random.Generator, norm_first: bool
) -> None:
    activation = "gelu" if norm_first else "relu"
    tensors = (
        draw_attention(rng, "self_attention.")
        | draw_attention(rng, "cross_attention.")
        | draw_linear(rng, {"ffn.up_proj": (FFN, EMBED), "ffn.down_proj": (EMBED, FFN)})
        | draw_norm(rng, "self_norm")
        | draw_norm(rng, "cross_norm")
        | draw_norm(rng, "ffn_norm")
        | draw(rng, x=(BATCH, QUERY, EMBED), memory=(BATCH, KEY, EMBED))
    )
    padding, memory_padding = draw_mask(rng, BATCH, 1, 1, QUERY), draw_mask(rng, BATCH, 1, 1, KEY)

    def oracle(t: Arrays) -> Sequence[Array]:
        return oracles.encoder_decoder_attention(
            t,
            t["x"],
            t["memory"],
            padding,
            memory_padding,
            num_heads=HEADS,
            norm_first=norm_first,
            activation=activation,
        )

    layer = nn.TransformerDecoderLayer(
        EMBED,
        HEADS,
        FFN,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=norm_first,
        dtype=torch.float64,
    )
    weights = []
    for attention in (layer.self_attn, layer.multihead_attn):
        # The layer discards its attention weights: request them from its attentions, and record them.
        attention.register_forward_pre_hook(
            lambda _, args, kwargs: (args, kwargs | {"need_weights": True, "average_attn_weights": False}),
            with_kwargs=True,
        )
        attention.register_forward_hook(lambda _, args, result: weights.append(result[1]))

    def peer(t: Tensors) -> Sequence[Tensor]:
        names = {"norm1": "self_norm", "norm2": "cross_norm", "norm3": "ffn_norm"}
        names |= {"linear1": "ffn.up_proj", "linear2": "ffn.down_proj"}
        state = {f"{k}.{part}": t[f"{v}.{part}"] for k, v in names.items() for part in ("weight", "bias")}
        for theirs, ours in (("self_attn", "self_attention."), ("multihead_attn", "cross_attention.")):
            state |= {f"{theirs}.{k}": v for k, v in to_torch_attention(t, ours).items()}
        hidden = {
            "tgt_mask": ~torch.ones(QUERY, QUERY, dtype=torch.bool).tril(),
            "tgt_key_padding_mask": ~torch.from_numpy(padding[:, 0, 0]),
            "memory_key_padding_mask": ~torch.from_numpy(memory_padding[:, 0, 0]),
        }
        output = functional_call(layer, state, (t["x"], t["memory"]), hidden)
        return output, *weights

    prove(oracle, peer, tensors, rng)


# --- BERT ---

LAYERS, VOCAB, POSITIONS, TYPES = 2, 11, 9, 2


def bert_names(layers: int) -> Iterator[tuple[str, str]]:
    """Tensor names of a transformers BertModel, each with this package's name."""
    yield "embeddings.word_embeddings.weight", "token_embedding.weight"
    yield "embeddings.position_embeddings.weight", "position_embedding.weight"
    yield "embeddings.token_type_embeddings.weight", "type_embedding.weight"
    modules = {"embeddings.LayerNorm": "embedding_norm", "pooler.dense": "pooler"}
    for n in range(layers):
        theirs, ours = f"encoder.layer.{n}", f"layers.{n}"
        modules |= {
            f"{theirs}.attention.self.query": f"{ours}.attention.q_proj",
            f"{theirs}.attention.self.key": f"{ours}.attention.k_proj",
            f"{theirs}.attention.self.value": f"{ours}.attention.v_proj",
            f"{theirs}.attention.output.dense": f"{ours}.attention.out_proj",
            f"{theirs}.attention.output.LayerNorm": f"{ours}.attention_norm",
            f"{theirs}.intermediate.dense": f"{ours}.ffn.up_proj",
            f"{theirs}.output.dense": f"{ours}.ffn.down_proj",
            f"{theirs}.output.LayerNorm": f"{ours}.ffn_norm",
        }
    for theirs, ours in modules.items():
        yield f"{theirs}.weight", f"{ours}.weight"
        yield f"{theirs}.bias", f"{ours}.bias"


@pytest.mark.slow
def test_encoder_agrees_with_transformers_bert(rng: np.random.Generator) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=EMBED,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
        max_position_embeddings=POSITIONS,
        type_vocab_size=TYPES,
        pad_token_id=None,  # torch gives a padding embedding no gradient; mathematically it has one
        attn_implementation="eager",
    )
    bert = transformers.BertModel(config).double().eval()
    names = dict(bert_names(LAYERS))
    assert set(names) == set(bert.state_dict())
    tensors = {
        ours: rng.normal(size=tuple(bert.state_dict()[theirs].shape)) / 2 for theirs, ours in names.items()
    }
    tokens = rng.integers(VOCAB, size=(BATCH, KEY))
    token_types = rng.integers(TYPES, size=(BATCH, KEY))
    padding = draw_mask(rng, BATCH, KEY)

    def oracle(t: Arrays) -> Sequence[Array]:
        output, pooled, weights = oracles.encoder(
            t, tokens, padding[:, None, None], token_types, num_heads=HEADS, num_layers=LAYERS
        )
        return output, pooled, *weights

    def peer(t: Tensors) -> Sequence[Tensor]:
        state = {theirs: t[ours] for theirs, ours in names.items()}
        inputs = {
            "input_ids": torch.from_numpy(tokens),
            "token_type_ids": torch.from_numpy(token_types),
            "attention_mask": torch.from_numpy(padding).long(),
        }
        result = functional_call(bert, state, (), inputs | {"output_attentions": True})
        return result.last_hidden_state, result.pooler_output, *result.attentions

    prove(oracle, peer, tensors, rng)


def test_encoder_without_types_or_pooler_uses_type_zero_and_pools_nothing(
    rng: np.random.Generator,
) -> None:
    parameters = {
        "token_embedding.weight": rng.normal(size=(VOCAB, EMBED)),
        "position_embedding.weight": rng.normal(size=(POSITIONS, EMBED)),
        "type_embedding.weight": rng.normal(size=(TYPES, EMBED)),
        **draw_norm(rng, "embedding_norm"),
    }
    tokens = np.array([[3, 1, 3]])
    output, pooled, weights = oracles.encoder(parameters, tokens, num_heads=HEADS, num_layers=0)
    zeros, _, _ = oracles.encoder(
        parameters, tokens, token_types=np.zeros((1, 3), dtype=int), num_heads=HEADS, num_layers=0
    )
    assert np.array_equal(output, zeros)
    assert pooled is None
    assert weights == ()
