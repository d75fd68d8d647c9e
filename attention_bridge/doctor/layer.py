"""The doctor's own attention layer, in numpy and float64, with the mistakes that its `Port` describes."""

from __future__ import annotations

import numpy as np

from attention_bridge.doctor.port import Array, Port
from attention_bridge.oracles.common import ACTIVATIONS

BITS = {
    "float32": 24,
    "tf32": 11,
    "float16": 11,
    "bfloat16": 8,
}  # significant bits, the implicit one included
LEAST = {"float16": -13}  # `frexp` exponent of the smallest normal number; subnormals lose bits
LEAST_OF_OTHERS = -125


def compute(port: Port) -> Array:
    """Compute the outputs of a port.

    Returns:
        Outputs `(batch, rows, out)` in float64; overflow and undefined results appear as inf and NaN.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if not port.is_block:
            return _attention(port, port.x)
        first = port.setting.norm_first
        y = _attention(port, _whole_norm(port, "attention_norm", port.x) if first else port.x)
        x = _add(port, "attention_norm", port.x[:, port.rows], y)
        if "ffn.up_proj.weight" not in port.weights:
            return x
        y = _feed_forward(port, _norm(port, "ffn_norm", x) if first else x)
        return _add(port, "ffn_norm", x, y)


def rounded(x: Array, precision: str) -> Array:
    """Round to the significant bits of a precision: to nearest, or towards zero for `tf32 cut`."""
    if precision == "full":
        return x
    name, _, cut = precision.partition(" ")
    _, exponent = np.frexp(x)
    last = np.maximum(exponent, LEAST.get(name, LEAST_OF_OTHERS)) - BITS[name]
    return np.ldexp((np.trunc if cut else np.rint)(np.ldexp(x, -last)), last)


def _add(port: Port, norm: str, x: Array, y: Array) -> Array:
    """Add the residual, and apply the norm of a post-norm layer."""
    y = _stored(port, x + y) if port.residual else y
    return y if port.setting.norm_first else _norm(port, norm, y)


def _product(port: Port, a: Array, b: Array) -> Array:
    return _stored(port, rounded(a, port.precision) @ rounded(b, port.precision))


def _stored(port: Port, x: Array) -> Array:
    """Round a result to the dtype that the layer stores it in."""
    return rounded(x, port.stored)


def _linear(port: Port, name: str, x: Array) -> Array:
    y = rounded(x, port.precision) @ rounded(port.weights[f"{name}.weight"], port.precision).T
    bias = port.weights.get(f"{name}.bias")
    return _stored(port, y if bias is None else y + _stored(port, bias))


def _whole_norm(port: Port, name: str, x: Array) -> Array:
    """Apply a norm to whole sequences, once for all ports that share it."""
    setting = port.setting
    options = (setting.norm, setting.norm_eps, setting.norm_offset, port.unbiased, port.stored)
    arrays = (x, port.weights.get(f"{name}.weight"), port.weights.get(f"{name}.bias"))
    return port.keep(arrays, options, lambda: _norm(port, name, x))


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
    wanted = port.positions
    query = _query(port, x, wanted)  # batch heads query head_dim
    key = _keys(port, keys)  # batch kv_heads key head_dim
    value = _split(port, _whole(port, "v_proj", keys), setting.kv_heads)  # batch kv_heads key value_dim
    if "q" in port.roped:
        query = _rope(port, query, wanted + setting.query_offset)

    grouped = query.reshape(
        len(x), setting.kv_heads, -1, query.shape[-1]
    )  # batch kv_heads (group query) head_dim
    scores = _product(port, grouped, key.swapaxes(-1, -2)) * port.scale
    scores = _stored(port, scores).reshape(*query.shape[:-1], -1)  # batch heads query key
    if setting.softcap is not None:
        scores = setting.softcap * np.tanh(scores / setting.softcap)
    weights = _stored(port, _weights(port, scores)).reshape(*grouped.shape[:-1], -1)
    heads = _product(port, weights, value).reshape(*query.shape[:-1], -1)  # batch heads query value_dim
    if port.merge == "heads":
        heads = heads.swapaxes(1, 2)  # batch query heads value_dim
    else:
        head, position = port.raw_heads
        heads = heads[:, head, np.searchsorted(wanted, position)]  # batch rows parts value_dim
    merged = heads.reshape(*heads.shape[:2], -1)
    return _linear(port, "out_proj", merged) if "out_proj.weight" in port.weights else merged


def _query(port: Port, x: Array, wanted: Array) -> Array:
    """Project the queries at the wanted positions."""
    if port.split == "heads":
        return _split(port, _linear(port, "q_proj", x[:, wanted]), port.setting.num_heads)
    return _split(port, _whole(port, "q_proj", x), port.setting.num_heads)[:, :, wanted]


def _keys(port: Port, x: Array) -> Array:
    """Project the keys and apply RoPE to them."""
    setting = port.setting
    key = _whole(port, "k_proj", x)
    if "k" not in port.roped or setting.rope == "none":
        return _split(port, key, setting.kv_heads)
    turn = (setting.rope, setting.rope_base, setting.rope_dim, port.rope_sign)
    options = (port.split, setting.kv_heads, port.stored, *turn)
    positions = np.arange(key.shape[-2])
    return port.keep((key,), options, lambda: _rope(port, _split(port, key, setting.kv_heads), positions))


def _whole(port: Port, name: str, x: Array) -> Array:
    """Apply a linear map to whole sequences, once for all ports that share it."""
    arrays = (x, port.weights[f"{name}.weight"], port.weights.get(f"{name}.bias"))
    return port.keep(arrays, ("map", port.precision, port.stored), lambda: _linear(port, name, x))


def _split(port: Port, x: Array, num_heads: int) -> Array:
    batch, length, features = x.shape
    if port.split == "raw":
        return x.reshape(batch, num_heads, length, features // num_heads)
    return x.reshape(batch, length, num_heads, features // num_heads).swapaxes(1, 2)


def _rope(port: Port, x: Array, positions: Array) -> Array:
    setting = port.setting
    if setting.rope == "none":
        return x
    dim = setting.rope_dim or x.shape[-1]
    theta = setting.rope_base ** (-np.arange(0, dim, 2) / dim)
    angle = port.rope_sign * positions[:, None] * theta
    pairs = (slice(0, dim // 2), slice(dim // 2, dim))
    if setting.rope == "interleaved":
        pairs = (slice(0, dim, 2), slice(1, dim, 2))
    a, b = (x[..., pair] for pair in pairs)
    turned = x.copy()
    turned[..., pairs[0]] = a * np.cos(angle) - b * np.sin(angle)
    turned[..., pairs[1]] = b * np.cos(angle) + a * np.sin(angle)
    return _stored(port, turned)


def _weights(port: Port, scores: Array) -> Array:
    """Softmax over the visible keys of each query."""
    seen = _visible(port, scores.shape[-1])
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


def _visible(port: Port, key_len: int) -> Array:
    setting, wanted = port.setting, port.positions
    seen = np.ones((1, 1, 1, key_len), dtype=bool) if port.mask is None else port.mask
    seen = seen[:, :, wanted] if seen.shape[-2] > 1 else seen
    if setting.is_causal:
        position = wanted[:, None] + setting.query_offset + port.mask_offset
        distance = position - np.arange(key_len)
        seen = seen & (distance >= 0)
        if setting.window is not None:
            seen = seen & (distance < setting.window)
    return seen
