"""The doctor's own layer of attention, in numpy and float64, right or wrong as its `Port` says."""

from __future__ import annotations

import numpy as np

from attention_bridge.doctor.port import Array, Port
from attention_bridge.oracles.common import ACTIVATIONS

BITS = {"tf32": 11, "float16": 11, "bfloat16": 8}  # significant ones, the hidden one included


def compute(port: Port) -> Array:
    """What a port computes.

    Returns:
        `(batch, rows, out)` in float64; whatever overflows or is not defined shows in the numbers.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if not port.is_block:
            return _attention(port, port.x)
        first = port.setting.norm_first
        y = _attention(port, _norm(port, "attention_norm", port.x) if first else port.x)
        x = _add(port, "attention_norm", port.x[:, port.rows], y)
        if "ffn.up_proj.weight" not in port.weights:
            return x
        y = _feed_forward(port, _norm(port, "ffn_norm", x) if first else x)
        return _add(port, "ffn_norm", x, y)


def rounded(x: Array, precision: str) -> Array:
    """The numbers that have the significant bits of a precision: the nearest, or for `tf32 cut` those before."""
    if precision == "full":
        return x
    name, _, cut = precision.partition(" ")
    mantissa, exponent = np.frexp(x)
    return np.ldexp((np.trunc if cut else np.rint)(np.ldexp(mantissa, BITS[name])), exponent - BITS[name])


def _add(port: Port, norm: str, x: Array, y: Array) -> Array:
    """The residual, and the norm that stands after it."""
    y = _stored(port, x + y) if port.residual else y
    return y if port.setting.norm_first else _norm(port, norm, y)


def _product(port: Port, a: Array, b: Array) -> Array:
    return _stored(port, rounded(a, port.precision) @ rounded(b, port.precision))


def _stored(port: Port, x: Array) -> Array:
    """A result as the layer keeps it."""
    return rounded(x, port.stored)


def _linear(port: Port, name: str, x: Array) -> Array:
    y = rounded(x, port.precision) @ rounded(port.weights[f"{name}.weight"], port.precision).T
    bias = port.weights.get(f"{name}.bias")
    return _stored(port, y if bias is None else y + _stored(port, bias))


def _norm(port: Port, name: str, x: Array) -> Array:
    weight, bias = port.weights.get(f"{name}.weight"), port.weights.get(f"{name}.bias")
    if weight is None:
        return x
    if port.setting.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    count = x.shape[-1] - port.unbiased
    x = x / np.sqrt((x * x).sum(axis=-1, keepdims=True) / count + port.setting.norm_eps)
    x = x * (1 + weight if port.setting.norm_offset else weight)
    return _stored(port, x if bias is None else x + bias)


def _feed_forward(port: Port, x: Array) -> Array:
    hidden = _stored(port, ACTIVATIONS[port.setting.activation](_linear(port, "ffn.up_proj", x)))
    return _linear(port, "ffn.down_proj", hidden)


def _attention(port: Port, x: Array) -> Array:
    setting = port.setting
    keys = x if port.memory is None else port.memory
    query = _split(port, _linear(port, "q_proj", x), setting.num_heads)  # batch heads query head_dim
    key = _split(port, _linear(port, "k_proj", keys), setting.kv_heads)  # batch kv_heads key head_dim
    value = _split(port, _linear(port, "v_proj", keys), setting.kv_heads)  # batch kv_heads key value_dim
    if "q" in port.roped:
        query = _rope(port, query, first=setting.query_offset)
    if "k" in port.roped:
        key = _rope(port, key, first=0)
    early = port.merge == "heads"  # then each row of heads is a row of the output, and no other row is needed
    query = query[:, :, port.rows] if early and port.rows is not ... else query
    repeats = setting.num_heads // setting.kv_heads
    key, value = np.repeat(key, repeats, axis=1), np.repeat(value, repeats, axis=1)

    scores = _product(port, query, key.swapaxes(-1, -2)) * port.scale  # batch heads query key
    scores = _stored(port, scores)
    if setting.softcap is not None:
        scores = setting.softcap * np.tanh(scores / setting.softcap)
    heads = _product(port, _stored(port, _weights(port, scores)), value)  # batch heads query value_dim
    if port.merge == "heads":
        heads = heads.swapaxes(1, 2)
    merged = heads.reshape(len(x), heads.shape[1] if early else x.shape[1], -1)  # batch rows features
    merged = merged if early else merged[:, port.rows]
    return _linear(port, "out_proj", merged) if "out_proj.weight" in port.weights else merged


def _split(port: Port, x: Array, num_heads: int) -> Array:
    batch, length, features = x.shape
    if port.split == "raw":
        return x.reshape(batch, num_heads, length, features // num_heads)
    return x.reshape(batch, length, num_heads, features // num_heads).swapaxes(1, 2)


def _rope(port: Port, x: Array, first: int) -> Array:
    setting = port.setting
    if setting.rope == "none":
        return x
    dim = setting.rope_dim or x.shape[-1]
    theta = setting.rope_base ** (-np.arange(0, dim, 2) / dim)
    angle = port.rope_sign * np.arange(first, first + x.shape[-2])[:, None] * theta
    pairs = (slice(0, dim // 2), slice(dim // 2, dim))
    if setting.rope == "interleaved":
        pairs = (slice(0, dim, 2), slice(1, dim, 2))
    a, b = (x[..., pair] for pair in pairs)
    turned = x.copy()
    turned[..., pairs[0]] = a * np.cos(angle) - b * np.sin(angle)
    turned[..., pairs[1]] = b * np.cos(angle) + a * np.sin(angle)
    return _stored(port, turned)


def _weights(port: Port, scores: Array) -> Array:
    """The softmax over the keys that each query sees."""
    seen = _visible(port, port.x.shape[1], scores.shape[-1])
    if port.merge == "heads" and seen.shape[-2] > 1:
        seen = seen[..., port.rows, :] if port.rows is not ... else seen
    seen = np.broadcast_to(seen, scores.shape)
    empty = ~seen.any(axis=-1, keepdims=True)
    if port.empty_rows == "unmasked":
        seen = seen | empty
    elif port.empty_rows == "mean":
        seen, scores = seen | empty, np.where(empty, 0.0, scores)
    top = np.max(scores, axis=-1, keepdims=True, where=seen, initial=-np.inf)
    exponentials = np.where(seen, np.exp(np.where(seen, scores - top, 0.0)), 0.0)
    total = exponentials.sum(axis=-1, keepdims=True)
    if port.empty_rows == "nan":
        return exponentials / total
    return exponentials / np.where(empty & ~seen.any(axis=-1, keepdims=True), 1.0, total)


def _visible(port: Port, query_len: int, key_len: int) -> Array:
    setting = port.setting
    seen = np.ones((1, 1, query_len, key_len), dtype=bool) if port.mask is None else port.mask
    if setting.is_causal:
        position = np.arange(query_len)[:, None] + setting.query_offset + port.mask_offset
        distance = position - np.arange(key_len)
        seen = seen & (distance >= 0)
        if setting.window is not None:
            seen = seen & (distance < setting.window)
    return seen
