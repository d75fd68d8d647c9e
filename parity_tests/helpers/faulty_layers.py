"""Attention layers in plain PyTorch whose steps can each be replaced by a faulty one, for tests of the doctor.

This file shares no code with the doctor: faults are made in the arithmetic, as in a real port, not in the weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_bridge.doctor import Setting

Weights = dict[str, Tensor]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def split(x: Tensor, heads: int, name: str = "") -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def projected(w: Weights, x: Tensor, memory: Tensor, *, linear: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    return linear(w, "q_proj", x), linear(w, "k_proj", memory), linear(w, "v_proj", memory)


def complex_rope(x: Tensor, base: float, first: int = 0, sign: int = 1) -> Tensor:
    """Rotate features 2i and 2i + 1 as one complex number times exp(i m θ)."""
    theta = base ** (-torch.arange(0, x.shape[-1], 2, dtype=x.dtype) / x.shape[-1])
    angle = sign * torch.outer(torch.arange(first, first + x.shape[-2], dtype=x.dtype), theta)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def half_rope(x: Tensor, base: float, first: int = 0, sign: int = 1) -> Tensor:
    """Rotate features i and i + d/2."""
    paired = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    return complex_rope(paired, base, first, sign).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def softmax(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)


def attention(
    w: Weights,
    x: Tensor,
    memory: Tensor,
    seen: Tensor,
    *,
    heads: int,
    kv_heads: int,
    linear: Callable[..., Tensor] = linear,
    projected: Callable[..., tuple[Tensor, ...]] = projected,
    split: Callable[..., Tensor] = split,
    merge: Callable[..., Tensor] = merge,
    repeat: Callable[[Tensor, int], Tensor] = lambda x, n: x.repeat_interleave(n, dim=1),
    turn: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = (lambda q: q, lambda k: k),
    scale: Callable[[int], float] = lambda d: d**-0.5,
    cap: float | None = None,
    softmax: Callable[..., Tensor] = softmax,
    matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Tensor:
    q, k, v = projected(w, x, memory, linear=linear)
    q, k, v = split(q, heads, "q"), split(k, kv_heads, "k"), split(v, kv_heads, "v")
    q, k = turn[0](q), turn[1](k)
    k, v = repeat(k, heads // kv_heads), repeat(v, heads // kv_heads)
    scores = matmul(q, k.mT) * scale(q.shape[-1])
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    return linear(w, "out_proj", merge(matmul(softmax(scores, seen), v)))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def block(
    w: Weights,
    x: Tensor,
    memory: Tensor,
    seen: Tensor,
    *,
    first: bool = False,
    norm: Callable[..., Tensor] = layer_norm,
    names: tuple[str, str] = ("attention_norm", "ffn_norm"),
    residual: int = 1,
    activation: Callable[[Tensor], Tensor] = F.gelu,
    linear: Callable[..., Tensor] = linear,
    **wrong: Any,
) -> Tensor:
    def normed(name: str, y: Tensor) -> Tensor:
        return norm(y, w[f"{name}.weight"], w.get(f"{name}.bias")) if name else y

    def attend(y: Tensor) -> Tensor:
        return attention(w, y, y, seen, linear=linear, **wrong)

    def feed(y: Tensor) -> Tensor:
        return linear(w, "ffn.down_proj", activation(linear(w, "ffn.up_proj", y)))

    for name, function in zip(names, (attend, feed), strict=True):
        x = residual * x + function(normed(name, x)) if first else normed(name, residual * x + function(x))
    return x


class Case(NamedTuple):
    """A correct layer and its inputs."""

    setting: Setting
    layer: Callable[..., Tensor]
    right: dict[str, Any]
    weights: Weights
    x: Tensor
    memory: Tensor | None = None
    mask: Tensor | None = None
    seen: Tensor | None = None

    def run(self, *, seen: Tensor | None = None, weights: Weights | None = None, **wrong: Any) -> np.ndarray:
        """The outputs, with some steps replaced."""
        memory = self.x if self.memory is None else self.memory
        visible = self.seen if seen is None else seen
        if visible is None:
            visible = torch.ones(self.x.shape[1], memory.shape[1], dtype=torch.bool)
        chosen = self.weights if weights is None else weights
        return self.layer(chosen, self.x, memory, visible, **{**self.right, **wrong}).numpy()

    def given(self) -> dict[str, Any]:
        """The arguments of the doctor."""
        return {
            "x": self.x,
            "weights": self.weights,
            "setting": self.setting,
            "memory": self.memory,
            "mask": self.mask,
        }


def random_weights(
    draw: Callable[..., Tensor],
    heads: int,
    kv_heads: int,
    head_dim: int,
    embed: int,
    memory: int | None = None,
) -> Weights:
    """Random projections with biases."""
    shapes = {
        "q_proj": (heads * head_dim, embed),
        "k_proj": (kv_heads * head_dim, memory or embed),
        "v_proj": (kv_heads * head_dim, memory or embed),
        "out_proj": (embed, heads * head_dim),
    }
    return affine(draw, shapes)


def affine(draw: Callable[..., Tensor], shapes: dict[str, tuple[int, int]]) -> Weights:
    """Random linear maps with biases, scaled so that the activations keep their size."""
    w = {}
    for name, (out, into) in shapes.items():
        w[f"{name}.weight"], w[f"{name}.bias"] = draw(out, into) / into**0.5, draw(out)
    return w
