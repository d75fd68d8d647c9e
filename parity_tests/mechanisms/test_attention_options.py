"""Options of attention that checkpoint families need, against a float64 reference in NumPy, in both mirrors."""

import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from parity_tests.helpers.built import each_mirror, module, weights_for

DIM, HEADS, HEAD_DIM, LENGTH = 12, 3, 4, 9
SIZES = {"embed_dim": DIM, "num_heads": HEADS, "head_dim": HEAD_DIM, "bias": False}
BOUND = 64 * 2.0**-24


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def rms(x, eps, scale=1.0):
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def turned(x, base):
    """Neighbouring features are pairs."""
    angles = np.arange(LENGTH)[:, None] * base ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    result = np.empty_like(x)
    result[..., 0::2] = x[..., 0::2] * np.cos(angles) - x[..., 1::2] * np.sin(angles)
    result[..., 1::2] = x[..., 1::2] * np.cos(angles) + x[..., 0::2] * np.sin(angles)
    return result


def attention(weights, x, change, visible):
    """Attention in float64, whose queries and keys a function changes."""
    w = {name: a.astype(np.float64) for name, a in weights.items()}

    def heads(name):
        return (x @ w[f"{name}_proj.weight"].T).reshape(*x.shape[:2], HEADS, HEAD_DIM).swapaxes(1, 2)

    query, key = change(heads("q"), heads("k"), w)
    scores = np.where(visible, query @ key.swapaxes(-1, -2) / np.sqrt(HEAD_DIM), -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed = (shares @ heads("v")).swapaxes(1, 2).reshape(*x.shape[:2], -1)
    return mixed @ w["out_proj.weight"].T


def after_rotation(query, key, w):
    scales = w["q_norm.weight"], w["k_norm.weight"]
    return tuple(rms(turned(a, 50.0), 0.1, scale) for a, scale in zip((query, key), scales, strict=True))


def llama4(query, key, w):
    return rms(turned(query, 50.0), 0.1), rms(turned(key, 50.0), 0.1)


def warm(query, key, w):
    factor = 1 + 0.3 * np.log1p(np.floor((np.arange(LENGTH) + 1) / 2))
    return query * factor[:, None], key


ROTARY = Part("RotaryEmbedding", {"head_dim": HEAD_DIM, "base": 50.0, "interleaved": True})
STILL = {"head_dim": HEAD_DIM, "rotary_dim": 2, "frequencies": (0.0,), "temperature": (0.3, 2.0, 1.0)}
CAUSAL = np.tri(LENGTH, dtype=bool)
CHUNKS = CAUSAL & (np.arange(LENGTH)[:, None] // 4 == np.arange(LENGTH) // 4)


@pytest.mark.parametrize(
    ("name", "options", "change", "visible"),
    [
        (
            "QKNormAttention",
            {"is_causal": True, "eps": 0.1, "after_position": True, "position": ROTARY},
            after_rotation,
            CAUSAL,
        ),
        ("ChunkedAttention", {"chunk_size": 4, "qk_norm_eps": 0.1, "position": ROTARY}, llama4, CHUNKS),
        (
            "GroupedQueryAttention",
            {"is_causal": True, "num_kv_heads": HEADS, "position": Part("RotaryEmbedding", STILL)},
            warm,
            CAUSAL,
        ),
    ],
)
@each_mirror
def test_option_equals_its_definition(mirror, name, options, change, visible, rng):
    weights = weights_for(rng, name, **SIZES, **options)
    made = module(mirror, name, weights, **SIZES, **options)
    x = rng.standard_normal((2, LENGTH, DIM)).astype(np.float32)
    expected = attention(weights, x.astype(np.float64), change, visible)
    for need_weights in (True, False):
        found = numpy(made(mirror.array(x), need_weights=need_weights).output)
        assert np.abs(found - expected).max() <= BOUND * np.abs(expected).max()
    plain = attention(weights, x.astype(np.float64), lambda query, key, w: (query, key), visible)
    assert np.abs(plain - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("QKNormAttention", {"after_position": True}),
        ("GroupedQueryAttention", {"num_kv_heads": HEADS, "position": Part("RotaryEmbedding", STILL)}),
    ],
)
@each_mirror
def test_option_that_depends_on_positions_takes_no_padding_in_front(mirror, name, options):
    attention = Part(name, {**SIZES, **options, "is_causal": True})
    arguments = {key: x for key, x in attention.arguments.items() if key not in ("embed_dim", "is_causal")}
    config = model_spec(7, DIM, [layer_spec(Part(name, arguments), None, "pre", Part("rms_norm"))])
    model = build(language_model(config), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    mask = mirror.array(np.array([[0, 1, 1]]))
    with pytest.raises(NotImplementedError, match=f"{name} takes no padding in front"):
        model(mirror.array(np.array([[1, 2, 3]])), mask)


@each_mirror
def test_temperature_of_other_than_three_numbers_raises(mirror):
    with pytest.raises(ValueError, match="temperature must hold three numbers, got 2"):
        module(mirror, "RotaryEmbedding", head_dim=4, temperature=(0.1, 2.0))
