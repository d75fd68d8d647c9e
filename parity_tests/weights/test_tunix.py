"""Layouts of Tunix and Bonsai: an independent reading of their tensors in NumPy gives the logits of transformers."""

import dataclasses

import numpy as np
import pytest
import torch

from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights import convert
from parity_tests.helpers import families
from parity_tests.helpers.jax_decoders import Shape, logits

SHAPE = Shape(2, 6**-0.5)
# Case of transformers, layout, and the names of the parameters of embeddings, projections and norms.
MODELS = {
    "llama in tunix": ("llama", "tunix.llama", "input_embedding", "w", "w"),
    "qwen3 in tunix": ("qwen3", "tunix.llama", "input_embedding", "w", "w"),
    "qwen3 in bonsai": ("qwen3", "bonsai.qwen3", "embedding", "kernel", "scale"),
}


def tokens():
    return np.random.default_rng(3).integers(0, families.VOCAB, (2, 7))


def read(tensors, name, shape=SHAPE):
    """The logits of the tensors of Tunix or Bonsai."""
    _, _, embedding, projection, norm = MODELS[name]
    wide = {key: x.astype(np.float64) for key, x in tensors.items()}

    def layer(n):
        start = f"layers.{n}."
        t = {key: wide[f"{start}attn.{key}_proj.{projection}"] for key in "qkvo"}
        t |= {key: wide[f"{start}mlp.{key}_proj.kernel"] for key in ("gate", "up", "down")}
        t["attention_norm"] = wide[f"{start}input_layernorm.{norm}"]
        t["ffn_norm"] = wide[f"{start}post_attention_layernorm.{norm}"]
        normed = [key for key in ("q_norm", "k_norm") if f"{start}attn.{key}.{norm}" in wide]
        return t | {key: wide[f"{start}attn.{key}.{norm}"] for key in normed}

    names = wide[f"embedder.{embedding}"], wide[f"final_norm.{norm}"], wide[f"lm_head.{projection}"]
    return logits(layer, names, tokens(), shape)


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", MODELS)
def test_reading_gives_the_logits_of_transformers_and_the_bytes_come_back(name):
    case, layout, *_ = MODELS[name]
    model = families.model(families.CASES[case])
    tensors = {key: x.detach().numpy().copy() for key, x in model.state_dict().items()}
    reading = read_config(model.config.to_dict(), Tensors(tensors, tensors.__getitem__))
    theirs, _ = convert(tensors, reading.layout, layout, reading.axes)
    bound = families.bound(model)
    with torch.no_grad():
        expected = model.double()(torch.from_numpy(tokens())).logits.numpy()
    assert error(read(theirs, name), expected) <= bound
    assert error(read(theirs, name, dataclasses.replace(SHAPE, neighbours=True)), expected) > 1000 * bound
    back, _ = convert({f"{key}.value": x for key, x in theirs.items()}, layout, reading.layout)
    assert {key: x.tobytes() for key, x in back.items()} == {key: x.tobytes() for key, x in tensors.items()}
