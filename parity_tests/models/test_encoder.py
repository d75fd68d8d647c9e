"""The encoder with a shared positional encoding, gates, task embeddings and without biases, against float64 NumPy."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.oracles.common import feed_forward, layer_norm, linear, scope
from attention_bridge.oracles.language_model import gated_feed_forward
from attention_bridge.oracles.positions import attention_with_positions, rotary
from attention_bridge.oracles.positions_relative import t5_bias
from attention_bridge.weights import convert, transfer
from parity_tests.helpers.built import MIRRORS

BATCH, LENGTH = 2, 6
SIZES = {"vocab_size": 17, "embed_dim": 12, "num_heads": 3, "num_layers": 2, "ffn_dim": 10, "norm_eps": 1e-3}
BIAS = Part("T5Bias", {"num_heads": 3, "num_buckets": 8, "max_distance": 6})
ROTARY = Part("RotaryEmbedding", {"head_dim": 4, "base": 50.0})
TURNED = {"turn": partial(rotary, rotary_dim=4, base=50.0)}
CASES = {
    "bias and positions": (
        {"position": BIAS, "max_len": 9, "num_types": 0, "num_tasks": 3},
        {"bias": partial(t5_bias, num_buckets=8, max_distance=6)},
    ),
    "rotary, gated, no biases": (
        {"position": ROTARY, "max_len": None, "gated": True, "bias": False, "activation": "silu"},
        TURNED,
    ),
    "rotary, narrow embeddings": (
        {"position": ROTARY, "max_len": None, "token_dim": 8, "num_types": 4},
        TURNED,
    ),
}
ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}


def reference(parameters, tokens, mask, options, attended):
    """Last hidden states in float64; the encoding's parameters are the model's."""
    x = parameters["token_embedding.weight"][tokens]
    if options.get("num_types", 2):
        x = x + parameters["type_embedding.weight"][0]
    if "num_tasks" in options:
        x = x + parameters["task_embedding.weight"][0]
    if options["max_len"] is not None:
        x = x + parameters["position_embedding.weight"][: tokens.shape[1]]
    x = layer_norm(parameters, "embedding_norm", x, 1e-3)
    if "token_dim" in options:
        x = linear(parameters, "embedding_proj", x)
    shared = {name: value for name, value in parameters.items() if name.startswith("position.")}
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    for n in range(2):
        layer = scope(parameters, f"layers.{n}")
        change, _ = attention_with_positions(
            scope(layer, "attention") | shared,
            x,
            mask[:, None, None],
            positions=positions,
            num_heads=3,
            num_kv_heads=3,
            **attended,
        )
        x = layer_norm(layer, "attention_norm", x + change, 1e-3)
        ffn = scope(layer, "ffn")
        fed = gated_feed_forward(ffn, x) if options.get("gated") else feed_forward(ffn, x, "gelu")
        x = layer_norm(layer, "ffn_norm", x + fed, 1e-3)
    return x


@pytest.mark.parametrize("framework", MIRRORS)
@pytest.mark.parametrize("name", CASES)
def test_options_of_the_encoder_equal_a_float64_reference(name, framework, rng):
    options, attended = CASES[name]
    part = Part("Encoder", {"config": Part("EncoderConfig", {**SIZES, **options})})
    model = build(part, f"{framework}_attention", {"rngs": nnx.Rngs(0)})
    shapes = build(part, "torch_attention", {}).state_dict()
    weights = {
        each: rng.normal(scale=0.5, size=tuple(x.shape)).astype(np.float32) for each, x in shapes.items()
    }
    own, _ = convert(weights, "torch_attention", f"{framework}_attention")
    transfer(own, model)
    tokens = rng.integers(0, 17, (BATCH, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < np.array([[LENGTH], [4]])
    array = ARRAYS[framework]
    found = model(array(tokens), array(mask)).last_hidden_state
    found = found.detach().numpy() if framework == "torch" else np.asarray(found)
    wide = {each: x.astype(np.float64) for each, x in weights.items()}
    expected = reference(wide, tokens, mask, options, attended)
    worst = np.abs(found - expected)[mask].max() / np.abs(expected[mask]).max()
    assert worst <= 4 * 2.0**-24 * np.sqrt(2 * (12 + 4 + LENGTH + 12 + 12 + 10))
