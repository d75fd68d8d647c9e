"""The parts of the small ports in JAX, each with a mistake by name in the code of its call."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity_tests.helpers.doctor_cases.positions import frequencies, slopes
from parity_tests.helpers.doctor_cases.shape import HEAD_DIM, HIDDEN, Rope, Shape

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}
EPS = {"eps 1e-6": 1e-6, "eps 1e-8": 1e-8, "eps 1e-5": 1e-5}
ROPES = {
    "base 10000": {"base": 10000.0},
    "base 500000": {"base": 500000.0},
    "base 23456": {"base": 23456.0},
    "no scaling": {"scaling": ""},
    "linear": {"scaling": "linear"},
    "llama3": {"scaling": "llama3"},
    "yarn": {"scaling": "yarn"},
    "half turned": {"turned": HEAD_DIM // 2},
}


class RMSNorm(nnx.Module):
    def __init__(self, size, eps, offset=0.0, fault=None):
        self.scale = nnx.Param(jnp.ones(size))
        self._eps, self._offset = EPS.get(fault, eps), 0.0 if fault == "plain weight" else offset

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self._eps)
        return (y * (self.scale[...] + self._offset)).astype(x.dtype)


class LayerNorm(nnx.Module):
    def __init__(self, size, eps, fault=None):
        self.scale, self.bias = nnx.Param(jnp.ones(size)), nnx.Param(jnp.zeros(size))
        self._eps, self._fault = EPS.get(fault, eps), fault

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + self._eps)
        y = y * self.scale[...]
        return (y if self._fault == "no bias" else y + self.bias[...]).astype(x.dtype)


def norm(shape: Shape, size: int, fault=None):
    if shape.norm == "layer":
        return LayerNorm(size, shape.eps, fault)
    return RMSNorm(size, shape.eps, float(shape.norm == "gemma"), fault)


def turned(x, rope: Rope, first: int):
    theta, amplitude = frequencies(rope)
    angle = np.outer(np.arange(first, first + x.shape[-2]), theta)
    cos, sin = (jnp.asarray(amplitude * each, x.dtype) for each in (np.cos(angle), np.sin(angle)))
    y, rest = x[..., : rope.turned], x[..., rope.turned :]
    if rope.pairing == "interleaved":
        a, b = y[..., ::2], y[..., 1::2]
        y = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(y.shape)
    else:
        a, b = jnp.split(y, 2, -1)
        y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    return jnp.concatenate([y, rest], -1)


class Attention(nnx.Module):
    def __init__(self, shape: Shape, rngs, fault=None, *, cross=False):
        self._shape, self._cross, self._fault = shape, cross, fault
        self.num_heads = shape.heads
        embed, narrow = shape.embed, shape.kv_heads * HEAD_DIM

        def linear(width):
            return nnx.Linear(embed, width, use_bias=shape.biased, rngs=rngs)

        if shape.fused and not cross:
            self.query_key_value = linear(3 * embed)
        else:
            self.q_proj, self.k_proj, self.v_proj = linear(embed), linear(narrow), linear(narrow)
        if shape.qk_norm:
            self.q_norm, self.k_norm = norm(shape, HEAD_DIM), norm(shape, HEAD_DIM)
        self.o_proj = linear(embed)

    def __call__(self, x, memory=None, mask=None, bias=None, past=None):
        shape, fault = self._shape, self._fault
        if fault == "axes":
            x = x.swapaxes(0, 1)
        query, key, value = self._projected(x, x if memory is None else memory)
        if shape.qk_norm and fault not in ("no qk-norm", "qk-norm late"):
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = self._placed(query, key, past)
        if shape.qk_norm and fault == "qk-norm late":
            query, key = self.q_norm(query), self.k_norm(key)
        if past is not None and fault != "keys twice":
            key = jnp.concatenate([past[0], key], -2)
        if past is not None:
            value = jnp.concatenate([past[1], value], -2)
        kept = (key, value)
        weights = self._weights(
            query, self._grouped(key), mask, bias, 0 if past is None else past[0].shape[-2]
        )
        heads = weights @ (self._grouped(value) if fault != "tiled keys" else self._repeated(value))
        if fault == "reversed":
            heads = heads[:, ::-1]
        heads = heads.swapaxes(1, 2)
        heads = heads.reshape(*heads.shape[:2], -1)
        return self.o_proj(heads.swapaxes(0, 1) if fault == "axes" else heads), *kept

    def _projected(self, x, memory):
        shape, fault = self._shape, self._fault
        if shape.fused and not self._cross:
            whole = self.query_key_value(x)
            if (shape.fused == "heads") != (fault == "cut"):
                parts = whole.reshape(*whole.shape[:2], shape.heads, 3, HEAD_DIM)
                parts = [parts[..., number, :] for number in range(3)]
            else:
                parts = [each.reshape(*each.shape[:2], -1, HEAD_DIM) for each in jnp.split(whole, 3, -1)]
        else:
            parts = [self.q_proj(x), self.k_proj(memory), self.v_proj(memory)]
            parts = [each.reshape(*each.shape[:2], -1, HEAD_DIM) for each in parts]
        query, key, value = (each.swapaxes(1, 2) for each in parts)
        if fault == "q k":
            query, key = key, query
        return (query, value, key) if fault == "k v" else (query, key, value)

    def _placed(self, query, key, past):
        """Queries and keys, turned by RoPE."""
        shape, fault = self._shape, self._fault
        if shape.rope is None or self._cross:
            return query, key
        rope = replace(shape.rope, **ROPES.get(fault, {}))
        first = 0 if past is None else past[0].shape[-2]
        if past is not None:
            if fault == "keys twice":
                key = jnp.concatenate([past[0], key], -2)
                return turned(query, rope, first), turned(key, rope, 0)
            first = {"first zero": 0, "one late": first + 1}.get(fault, first)
        return turned(query, rope, first), turned(key, rope, first)

    def _repeated(self, x):
        return jnp.repeat(x, self._shape.heads // self._shape.kv_heads, 1)

    def _grouped(self, x):
        if self._fault in ("tiled", "scale and tiled", "tiled keys"):
            return jnp.tile(x, (1, self._shape.heads // self._shape.kv_heads, 1, 1))
        return self._repeated(x)

    def _weights(self, query, key, mask, bias, first):
        shape, fault = self._shape, self._fault
        scores = query @ key.mT
        if shape.scaled and fault not in ("scale", "scale and tiled"):
            scores = scores / math.sqrt(HEAD_DIM)
        if fault == "scale twice":
            scores = scores / math.sqrt(HEAD_DIM)
        if shape.softcap and fault != "no softcap":
            scores = shape.softcap * jnp.tanh(scores / shape.softcap)
        distance = np.arange(first, first + query.shape[-2])[:, None] - np.arange(key.shape[-2])
        if shape.alibi and fault != "no alibi":
            slope = slopes(shape.heads)
            slope = (
                np.sort(slope)[::-1]
                if fault == "sorted alibi"
                else -slope
                if fault == "alibi sign"
                else slope
            )
            scores = scores - jnp.asarray(slope[:, None, None] * np.abs(distance), scores.dtype)
        if bias is not None:
            scores = scores + bias
        if mask is not None and fault != "no mask":
            mask = (
                jnp.broadcast_to(mask.swapaxes(-1, -2), scores.shape) if fault == "mask of queries" else mask
            )
            scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
        if shape.causal and not self._cross:
            scores = jnp.where(distance + (fault == "late") < 0, -jnp.inf, scores)
        axis = -2 if fault == "softmax of queries" else -1
        return jax.nn.softmax(scores.astype(jnp.float32), axis=axis).astype(query.dtype)


class FeedForward(nnx.Module):
    def __init__(self, shape: Shape, rngs, fault=None):
        self._shape, self._fault = shape, fault
        if shape.gated:
            self.gate_proj = nnx.Linear(shape.embed, HIDDEN, use_bias=shape.biased, rngs=rngs)
        self.up_proj = nnx.Linear(shape.embed, HIDDEN, use_bias=shape.biased, rngs=rngs)
        self.down_proj = nnx.Linear(HIDDEN, shape.embed, use_bias=shape.biased, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if fault == "dropout" else None

    def __call__(self, x):
        activation = ACTIVATIONS[self._fault if self._fault in ACTIVATIONS else self._shape.activation]
        if self._shape.gated:
            gate, up = self.gate_proj(x), self.up_proj(x)
            y = gate * activation(up) if self._fault == "gate and up" else activation(gate) * up
        else:
            y = activation(self.up_proj(x))
        y = self.down_proj(y)
        return y if self.dropout is None else self.dropout(y)
