"""The parts of the small references in PyTorch."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from parity_tests.helpers.doctor_cases.positions import frequencies, slopes
from parity_tests.helpers.doctor_cases.shape import HEAD_DIM, HIDDEN, Rope, Shape

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
}


class RMSNorm(nn.Module):
    def __init__(self, size, eps, offset=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps, self._offset = eps, offset

    def forward(self, x):
        wide = x.double() if x.dtype == torch.float64 else x.float()
        y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps)
        return (y * (self.weight.to(y) + self._offset)).to(x)


def norm(shape: Shape, size: int):
    if shape.norm == "layer":
        return nn.LayerNorm(size, eps=shape.eps)
    return RMSNorm(size, shape.eps, float(shape.norm == "gemma"))


def turned(x, rope: Rope, first: int):
    theta, amplitude = frequencies(rope)
    angle = torch.from_numpy(np.outer(np.arange(first, first + x.shape[-2]), theta)).to(x.device)
    cos, sin = ((amplitude * each).to(x) for each in (angle.cos(), angle.sin()))
    y, rest = x[..., : rope.turned], x[..., rope.turned :]
    if rope.pairing == "interleaved":
        a, b = y[..., ::2], y[..., 1::2]
        y = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    else:
        a, b = y.chunk(2, -1)
        y = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([y, rest], -1)


class Attention(nn.Module):
    """Self-attention, or attention to a memory; with `past`, a decode step."""

    def __init__(self, shape: Shape, *, cross=False):
        super().__init__()
        self._shape, self._cross = shape, cross
        self.num_heads = shape.heads
        embed, narrow = shape.embed, shape.kv_heads * HEAD_DIM
        if shape.fused and not cross:
            self.query_key_value = nn.Linear(embed, 3 * embed, bias=shape.biased)
        else:
            self.q_proj = nn.Linear(embed, embed, bias=shape.biased)
            self.k_proj = nn.Linear(embed, narrow, bias=shape.biased)
            self.v_proj = nn.Linear(embed, narrow, bias=shape.biased)
        if shape.qk_norm:
            self.q_norm, self.k_norm = norm(shape, HEAD_DIM), norm(shape, HEAD_DIM)
        self.o_proj = nn.Linear(embed, embed, bias=shape.biased)

    def forward(self, x, memory=None, mask=None, bias=None, past=None):
        shape = self._shape
        query, key, value = self._projected(x, x if memory is None else memory)
        if shape.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        first = 0 if past is None else past[0].shape[-2]
        if shape.rope is not None and not self._cross:
            query, key = turned(query, shape.rope, first), turned(key, shape.rope, first)
        if past is not None:
            key, value = torch.cat([past[0], key], -2), torch.cat([past[1], value], -2)
        kept = (key, value)
        times = shape.heads // shape.kv_heads
        key, value = (each.repeat_interleave(times, 1) for each in (key, value))
        scores = query @ key.mT
        scores = scores / math.sqrt(HEAD_DIM) if shape.scaled else scores
        if shape.softcap:
            scores = shape.softcap * torch.tanh(scores / shape.softcap)
        distance = torch.arange(first, first + query.shape[-2])[:, None] - torch.arange(key.shape[-2])
        if shape.alibi:
            scores = scores - torch.from_numpy(slopes(shape.heads)).to(x)[:, None, None] * distance.abs()
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        if shape.causal and not self._cross:
            scores = scores.masked_fill(distance < 0, -math.inf)
        weights = scores.softmax(-1, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32).to(x)
        heads = (weights @ value).transpose(1, 2).flatten(2)
        return self.o_proj(heads), *kept

    def _projected(self, x, memory):
        shape = self._shape
        if shape.fused and not self._cross:
            whole = self.query_key_value(x)
            if shape.fused == "heads":
                parts = whole.unflatten(-1, (shape.heads, 3, HEAD_DIM)).unbind(-2)
            else:
                parts = [each.unflatten(-1, (shape.heads, HEAD_DIM)) for each in whole.chunk(3, -1)]
        else:
            parts = [self.q_proj(x), self.k_proj(memory), self.v_proj(memory)]
            parts = [each.unflatten(-1, (-1, HEAD_DIM)) for each in parts]
        return [each.transpose(1, 2) for each in parts]


class FeedForward(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self._shape = shape
        if shape.gated:
            self.gate_proj = nn.Linear(shape.embed, HIDDEN, bias=shape.biased)
        self.up_proj = nn.Linear(shape.embed, HIDDEN, bias=shape.biased)
        self.down_proj = nn.Linear(HIDDEN, shape.embed, bias=shape.biased)

    def forward(self, x):
        activation = ACTIVATIONS[self._shape.activation]
        if self._shape.gated:
            return self.down_proj(activation(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(activation(self.up_proj(x)))
