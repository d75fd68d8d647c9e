"""Peers of the attention mechanisms of recurrent networks, from Keras and ESPnet.

The Keras layers have no projections, so this file projects queries and keys in NumPy. The layers always multiply in
float32, so all comparisons with them run in float32.
"""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer

os.environ["KERAS_BACKEND"] = "torch"
import keras

FIXTURE = Path(__file__).parents[1] / "fixtures" / "classic.safetensors"
BATCH, QUERY, KEY, HIDDEN, QUERY_DIM, KEY_DIM, VALUE_DIM = 2, 5, 7, 9, 8, 10, 6
COMPARED = {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN}


def run_keras(layer, query, key, value, mask, scale=None):
    """Output and weights of a layer, with a key mask `(batch, 1, 1, key)`."""
    query, key, value = (torch.from_numpy(x) for x in (query, key, value))
    layer.build([query.shape, value.shape, key.shape])
    if scale is not None:
        layer.set_weights([scale])
    masks = [None, torch.from_numpy(mask[:, 0, 0])]
    output, weights = layer([query, value, key], mask=masks, return_attention_scores=True)
    return {"output": numpy(output), "weights": numpy(weights)}


def additive(query, key, value, mask, scale):
    return run_keras(keras.layers.AdditiveAttention(), query, key, value, mask, scale)


def draw(rng, *shapes):
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def draw_named(rng, shapes):
    return dict(zip(shapes, draw(rng, *shapes.values()), strict=True))


def key_mask(rng, batch, length):
    """A random key mask `(batch, 1, 1, key)` that never masks the first key."""
    mask = rng.random((batch, 1, 1, length)) < 0.6
    mask[..., 0] = True
    return mask


def query_key_value(rng, key_dim=KEY_DIM):
    arrays = draw(rng, (BATCH, QUERY, QUERY_DIM), (BATCH, KEY, key_dim), (BATCH, KEY, VALUE_DIM))
    return dict(zip(("query", "key", "value"), arrays, strict=True), mask=key_mask(rng, BATCH, KEY))


def additive_weights(rng):
    shapes = {
        "q_proj.weight": (HIDDEN, QUERY_DIM),
        "k_proj.weight": (HIDDEN, KEY_DIM),
        "k_proj.bias": (HIDDEN,),
        "score_proj.weight": (1, HIDDEN),
    }
    return draw_named(rng, shapes)


def compared(w, query, key):
    return query @ w["q_proj.weight"].T, key @ w["k_proj.weight"].T + w["k_proj.bias"]


@peer("BasicAttention", "keras AdditiveAttention")
def keras_additive(rng: np.random.Generator) -> Comparison:
    given, w = query_key_value(rng), additive_weights(rng)
    query, key = compared(w, given["query"], given["key"])
    expected = additive(query, key, given["value"], given["mask"], w["score_proj.weight"][0])
    return Comparison(Part("BasicAttention", {**COMPARED, "bias": True}), w, given, expected)


@peer("LuongAttention-dot", "keras Attention")
def keras_dot(rng: np.random.Generator) -> Comparison:
    given = query_key_value(rng, QUERY_DIM)
    expected = run_keras(keras.layers.Attention(), **given)  # without scaling
    return Comparison(Part("LuongAttention", {"score": Part("DotScore")}), {}, given, expected)


@peer("LuongAttention-general", "keras Attention")
def keras_general(rng: np.random.Generator) -> Comparison:
    given, w = query_key_value(rng), draw_named(rng, {"score.proj.weight": (QUERY_DIM, KEY_DIM)})
    keys = given["key"] @ w["score.proj.weight"].T
    expected = run_keras(keras.layers.Attention(), **{**given, "key": keys})
    score = Part("GeneralScore", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM})
    return Comparison(Part("LuongAttention", {"score": score}), w, given, expected)


@peer("LuongAttention-concat", "keras AdditiveAttention")
def keras_concat(rng: np.random.Generator) -> Comparison:
    # Attention(score_mode="concat") has no W, so this uses AdditiveAttention: W [q; k] is one half of W times q plus
    # the other half times k.
    given = query_key_value(rng)
    shapes = {
        "score.concat_proj.weight": (HIDDEN, QUERY_DIM + KEY_DIM),
        "score.score_proj.weight": (1, HIDDEN),
    }
    w = draw_named(rng, shapes)
    of_query, of_key = np.split(w["score.concat_proj.weight"], [QUERY_DIM], axis=1)
    query, key = given["query"] @ of_query.T, given["key"] @ of_key.T
    expected = additive(query, key, given["value"], given["mask"], w["score.score_proj.weight"][0])
    return Comparison(Part("LuongAttention", {"score": Part("ConcatScore", COMPARED)}), w, given, expected)


@peer("LuongAttention-concat", "keras Attention with score_mode=concat")
def keras_concat_without_weights(rng: np.random.Generator) -> Comparison:
    # The layer has no W, and a single number for v: here W is two identity matrices side by side.
    given = query_key_value(rng, QUERY_DIM)
    w = {
        "score.concat_proj.weight": np.tile(np.eye(QUERY_DIM, dtype=np.float32), 2),
        "score.score_proj.weight": np.full((1, QUERY_DIM), 0.7, np.float32),
    }
    expected = run_keras(keras.layers.Attention(score_mode="concat"), **given, scale=np.float32(0.7))
    sizes = {"query_dim": QUERY_DIM, "key_dim": QUERY_DIM, "hidden_dim": QUERY_DIM}
    return Comparison(Part("LuongAttention", {"score": Part("ConcatScore", sizes)}), w, given, expected)


@peer("PointerAttention", "keras AdditiveAttention")
def keras_pointer(rng: np.random.Generator) -> Comparison:
    given, w = query_key_value(rng), additive_weights(rng)
    query, key = compared(w, given["query"], given["key"])
    weights = additive(query, key, given.pop("value"), given["mask"], w["score_proj.weight"][0])["weights"]
    module = Part("PointerAttention", {**COMPARED, "bias": True})
    return Comparison(module, w, given, {"output": weights, "weights": weights})


@peer("HierarchicalAttentionPooling", "keras AdditiveAttention")
def keras_pooling(rng: np.random.Generator) -> Comparison:
    # A single query of zeros.
    [x] = draw(rng, (BATCH, KEY, KEY_DIM))
    mask = key_mask(rng, BATCH, KEY)
    shapes = {
        "hidden_proj.weight": (HIDDEN, KEY_DIM),
        "hidden_proj.bias": (HIDDEN,),
        "score_proj.weight": (1, HIDDEN),
    }
    w = draw_named(rng, shapes)
    key = x @ w["hidden_proj.weight"].T + w["hidden_proj.bias"]
    expected = additive(np.zeros((BATCH, 1, HIDDEN), np.float32), key, x, mask, w["score_proj.weight"][0])
    module = Part("HierarchicalAttentionPooling", {"embed_dim": KEY_DIM, "hidden_dim": HIDDEN})
    return Comparison(module, w, {"x": x, "mask": mask}, expected)


@peer("LocationAwareAttention", "espnet AttLoc")
def espnet_location_aware(rng: np.random.Generator) -> Comparison:
    """The results in the file that `fixtures/make_classic.py` writes."""
    found = load_file(FIXTURE)
    given, expected = (
        {name.removeprefix(f"{kind}."): x for name, x in found.items() if name.startswith(f"{kind}.")}
        for kind in ("given", "expected")
    )
    weights = {name: x for name, x in found.items() if "proj" in name or "conv" in name}
    module = Part("LocationAwareAttention", {**COMPARED, "num_filters": 3, "kernel_size": 5})
    return Comparison(module, weights, given, expected)
