"""Llama as published by Meta, in float64 numpy, written from Meta's model without code of this project.

Positions rotate pairs of neighbouring features as complex numbers.
"""

from typing import Any

import numpy as np

Array = np.ndarray

PARAMS = {
    "dim": 24,
    "n_layers": 2,
    "n_heads": 6,
    "n_kv_heads": 3,
    "vocab_size": 31,
    "multiple_of": 5,
    "ffn_dim_multiplier": 0.7,
    "norm_eps": 1e-5,
    "rope_theta": 100.0,
}
HEAD_DIM, FFN = 4, 45  # 2/3 of 4 times 24, times 0.7, rounded up to a multiple of 5


def weights() -> dict[str, Array]:
    """Random float32 weights, by Meta's names."""
    rng = np.random.default_rng(3)
    dim, kv, vocab = 24, 3 * HEAD_DIM, 31
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (vocab, dim),
        "output.weight": (vocab, dim),
    }
    for n in range(2):
        shapes |= {f"layers.{n}.attention.w{name}.weight": (dim, dim) for name in "qo"}
        shapes |= {f"layers.{n}.attention.w{name}.weight": (kv, dim) for name in "kv"}
        shapes |= {f"layers.{n}.feed_forward.w{name}.weight": (FFN, dim) for name in "13"}
        shapes[f"layers.{n}.feed_forward.w2.weight"] = (dim, FFN)
    found = {name: 0.3 * rng.standard_normal(shape) for name, shape in shapes.items()}
    norms = ["norm", *(f"layers.{n}.{part}_norm" for n in range(2) for part in ("attention", "ffn"))]
    found |= {f"{name}.weight": 1.0 + 0.3 * rng.standard_normal(dim) for name in norms}
    return {name: array.astype(np.float32) for name, array in found.items()}


def logits(params: dict[str, Any], given: dict[str, Array], tokens: Array) -> Array:
    """Logits `(batch, length, vocab_size)` of the next token, in float64."""
    w = {name.removesuffix(".weight"): array.astype(np.float64) for name, array in given.items()}
    heads, groups = params["n_heads"], params["n_kv_heads"]
    batch, length = tokens.shape
    theta, places = params.get("rope_theta", 10000.0), np.arange(length)
    frequencies = theta ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    turns = np.exp(1j * np.outer(places, frequencies))[:, None]  # length 1 pairs

    def norm(x: Array, name: str) -> Array:
        return w[name] * x / np.sqrt((x**2).mean(-1, keepdims=True) + params["norm_eps"])

    def split(x: Array, name: str) -> Array:
        return (x @ w[name].T).reshape(batch, length, -1, HEAD_DIM)

    def turn(x: Array) -> Array:
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)

    x = w["tok_embeddings"][tokens]
    for n in range(params["n_layers"]):
        layer, normed = f"layers.{n}", norm(x, f"layers.{n}.attention_norm")
        query, key = (turn(split(normed, f"{layer}.attention.w{name}")) for name in "qk")
        value = split(normed, f"{layer}.attention.wv")
        key, value = (np.repeat(each, heads // groups, axis=2) for each in (key, value))
        scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(HEAD_DIM)
        scores = np.where(places[None] <= places[:, None], scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        read = np.einsum("bhqk,bkhd->bqhd", shares, value).reshape(batch, length, -1)
        x = x + read @ w[f"{layer}.attention.wo"].T
        normed = norm(x, f"{layer}.ffn_norm")
        gate = normed @ w[f"{layer}.feed_forward.w1"].T
        hidden = gate / (1.0 + np.exp(-gate)) * (normed @ w[f"{layer}.feed_forward.w3"].T)
        x = x + hidden @ w[f"{layer}.feed_forward.w2"].T
    return norm(x, "norm") @ w["output"].T
