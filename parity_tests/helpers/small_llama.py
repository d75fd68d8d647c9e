"""A small Llama-shaped model of one's own in each framework, the one in JAX with a mistake by name.

The mistakes are in the code of the calls, not in options that could be read.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

VOCABULARY, EMBED, HEADS, KV_HEADS, HIDDEN, LAYERS = 17, 24, 4, 2, 40, 3
HEAD_DIM = EMBED // HEADS
BASE, EPS, CAP = 150000.0, 1e-5, 30.0
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(EMBED))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


def angles(length, base=BASE, first=0):
    theta = base ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return np.outer(np.arange(first, first + length), theta)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.wq = nn.Linear(EMBED, EMBED, bias=False)
        self.wk = nn.Linear(EMBED, KV_HEADS * HEAD_DIM, bias=False)
        self.wv = nn.Linear(EMBED, KV_HEADS * HEAD_DIM, bias=False)
        self.wo = nn.Linear(EMBED, EMBED, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            each(x).view(batch, length, -1, HEAD_DIM).transpose(1, 2) for each in (self.wq, self.wk, self.wv)
        )
        turn = torch.from_numpy(angles(length)).to(x)
        q, k = (self.turned(each, turn) for each in (q, k))
        k, v = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in (k, v))
        scores = q @ k.mT / math.sqrt(HEAD_DIM)
        scores = scores.masked_fill(torch.ones(length, length).tril().logical_not(), -math.inf)
        return self.wo((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1))

    @staticmethod
    def turned(x, turn):
        a, b = x.chunk(2, -1)
        return torch.cat([a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()], -1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w3 = nn.Linear(EMBED, HIDDEN, bias=False), nn.Linear(EMBED, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, EMBED, bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(), Attention()
        self.ffn_norm, self.feed_forward = RMSNorm(), Gated()

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, EMBED)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = RMSNorm()
        self.output = nn.Linear(EMBED, VOCABULARY, bias=False)

    def forward(self, tokens):
        x = self.tok_embeddings(tokens) * math.sqrt(EMBED)
        for layer in self.layers:
            x = layer(x)
        return CAP * torch.tanh(self.output(self.norm(x)) / CAP)


def reference(seed=3):
    generator = torch.Generator().manual_seed(seed)
    model = Llama().eval()
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.35 + ("norm" in name))
    return model


class FlaxRMSNorm(nnx.Module):
    def __init__(self, fault=None):
        self.scale = nnx.Param(jnp.ones(EMBED))
        self.fault = fault

    def __call__(self, x):
        y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPS)
        return y * (self.scale[...] + (self.fault == "weight + 1"))


class FlaxAttention(nnx.Module):
    def __init__(self, rngs, fault=None):
        self.fault = fault
        self.query, self.key, self.value, self.out = (
            nnx.Linear(EMBED, size, use_bias=False, rngs=rngs)
            for size in (EMBED, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, EMBED)
        )

    def __call__(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            each(x).reshape(batch, length, -1, HEAD_DIM).swapaxes(1, 2)
            for each in (self.query, self.key, self.value)
        )
        if self.fault == "k v":
            k, v = v, k
        if self.fault == "raw":
            q = self.query(x).reshape(batch, HEADS, length, HEAD_DIM)
        base = 10000.0 if self.fault == "base" else 23456.0 if self.fault == "odd base" else BASE
        turn = jnp.asarray(angles(length, base), x.dtype)
        if self.fault != "no rope":
            q, k = (self.turned(each, turn) for each in (q, k))
        if self.fault == "tiled":
            k, v = (jnp.tile(each, (1, HEADS // KV_HEADS, 1, 1)) for each in (k, v))
        else:
            k, v = (jnp.repeat(each, HEADS // KV_HEADS, 1) for each in (k, v))
        scores = q @ k.mT
        scores = scores if self.fault == "scale" else scores / math.sqrt(HEAD_DIM)
        if self.fault != "not causal":
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        heads = jax.nn.softmax(scores, axis=-2 if self.fault == "axis" else -1) @ v
        if self.fault == "reversed":
            heads = heads[:, ::-1]
        return self.out(heads.swapaxes(1, 2).reshape(batch, length, -1))

    def turned(self, x, turn):
        if self.fault == "interleaved":
            a, b = x[..., ::2], x[..., 1::2]
            pairs = [a * jnp.cos(turn) - b * jnp.sin(turn), b * jnp.cos(turn) + a * jnp.sin(turn)]
            return jnp.stack(pairs, -1).reshape(x.shape)
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate(
            [a * jnp.cos(turn) - b * jnp.sin(turn), b * jnp.cos(turn) + a * jnp.sin(turn)], -1
        )


class FlaxGated(nnx.Module):
    def __init__(self, rngs, fault=None):
        self.fault = fault
        self.gate, self.up = (nnx.Linear(EMBED, HIDDEN, use_bias=False, rngs=rngs) for _ in range(2))
        self.down = nnx.Linear(HIDDEN, EMBED, use_bias=False, rngs=rngs)

    def __call__(self, x):
        activation = {
            "gelu": lambda x: jax.nn.gelu(x, approximate=False),
            "tanh-gelu": jax.nn.gelu,
            "relu2": lambda x: jnp.square(jax.nn.relu(x)),
            "quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
        }.get(self.fault, jax.nn.silu)
        gate, up = self.gate(x), self.up(x)
        return self.down(gate * activation(up) if self.fault == "swapped" else activation(gate) * up)


class FlaxBlock(nnx.Module):
    def __init__(self, rngs, fault=None, attention=None, gated=None, norm=None):
        self.fault = fault
        self.norm1, self.mix = FlaxRMSNorm(norm), FlaxAttention(rngs, attention)
        self.norm2, self.mlp = FlaxRMSNorm(), FlaxGated(rngs, gated)

    def __call__(self, x):
        if self.fault == "post":
            x = self.norm1(x + self.mix(x))
            return x + self.mlp(self.norm2(x))
        y = self.mix(self.norm1(x))
        x = y if self.fault == "no residual" else x + y
        return x + self.mlp(x if self.fault == "norm skipped" else self.norm2(x))


class FlaxLlama(nnx.Module):
    """The port; `place` is the number of the layer with the mistakes in its parts."""

    def __init__(self, rngs, place=1, fault=None, **faults):
        self.fault = fault
        self.embed = nnx.Embed(VOCABULARY, EMBED, rngs=rngs)
        self.blocks = nnx.List(
            [FlaxBlock(rngs, **(faults if number == place else {})) for number in range(LAYERS)]
        )
        self.last = FlaxRMSNorm()
        self.head = nnx.Linear(EMBED, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x if self.fault == "embedding scale" else x * math.sqrt(EMBED)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.last(x))
        return logits if self.fault == "softcap" else CAP * jnp.tanh(logits / CAP)


NAMES = {
    "attention_norm": "norm1",
    "ffn_norm": "norm2",
    "attention": "mix",
    "feed_forward": "mlp",
    "w1": "gate",
    "w3": "up",
    "w2": "down",
}
