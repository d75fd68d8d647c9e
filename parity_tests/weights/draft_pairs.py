"""Foreign models in pairs, one in PyTorch and one in Flax NNX, with equal functions and other names, orders and axes.

The right layout of each pair is known by construction: `GPTNames` and the arguments say where each tensor is.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from einops import rearrange
from flax import nnx
from torch import nn

TOKENS = np.array([[1, 5, 2, 0, 3], [4, 3, 5, 1, 2]])


def holder(kind: Any, **parts: Any) -> Any:
    """A module of a framework that holds these parts."""
    made = kind()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


class Sizes(NamedTuple):
    """Sizes of a model; all differ unless a pair says otherwise."""

    vocabulary: int = 6
    length: int = 7
    width: int = 8
    heads: int = 2
    groups: int = 2
    hidden: int = 10
    layers: int = 2


SIZES = Sizes()
SQUARE = Sizes(8, 8, 8, 2, 2, 8, 2)


class Spelling(NamedTuple):
    """Names and orders of one side of a pair.

    Attributes:
        attention: path of the attention in a block; empty for the block itself.
        qkv: names of the projections of queries, keys and values, or the name of the fused one.
        order: parts of a fused projection, in order.
        rows: axes of its rows, `k` parts, `h` heads and `d` features.
        out: name of the output projection.
        ffn: path of the feed-forward in a block; empty for the block itself.
        up: names of gate and up projection, the name of the fused one, or of the single one.
        gate_first: whether a fused one has the gate first.
        gated: whether the feed-forward is gated.
        down: name of the down projection.
        norms: names of the norms of attention and feed-forward.
        tokens, positions, blocks, last, head: names of the other parts; no positions with rotary ones, no head if tied.
        rope: pairs of rotary positions, "half" or "interleaved"; empty for learned positions.
        rms: whether norms are RMSNorms.
        bias: whether linear layers have biases.
    """

    attention: str = "attn"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    order: str = "qkv"
    rows: str = "khd"
    out: str = "o_proj"
    ffn: str = "mlp"
    up: tuple[str, ...] = ("fc1",)
    gate_first: bool = True
    gated: bool = False
    down: str = "fc2"
    norms: tuple[str, str] = ("ln_1", "ln_2")
    tokens: str = "wte"
    positions: str = "wpe"
    blocks: str = "h"
    last: str = "ln_f"
    head: str = "lm_head"
    rope: str = ""
    rms: bool = False
    bias: bool = True


def find(module: Any, path: str) -> Any:
    return module if not path else getattr(module, path)


def split(fused: Any, spelling: Spelling, sizes: Sizes) -> list[Any]:
    """Queries, keys and values of a fused projection: batch heads length features."""
    features = sizes.width // sizes.heads
    if sizes.groups != sizes.heads:
        ends = np.cumsum(
            [(sizes.heads if each == "q" else sizes.groups) * features for each in spelling.order]
        )
        starts = [0, *ends[:-1]]
        parts = [fused[..., start:end] for start, end in zip(starts, ends, strict=True)]
        parts = [rearrange(part, "b l (h d) -> b h l d", d=features) for part in parts]
    else:
        rows = " ".join(spelling.rows)
        parts = list(rearrange(fused, f"b l ({rows}) -> k b h l d", k=3, h=sizes.heads, d=features))
    return [parts[spelling.order.index(each)] for each in "qkv"]


def apart(x: Any, module: Any, spelling: Spelling, sizes: Sizes) -> list[Any]:
    features = sizes.width // sizes.heads
    projected = [getattr(module, name)(x) for name in spelling.qkv]
    return [rearrange(each, "b l (h d) -> b h l d", d=features) for each in projected]


def angles(length: int, features: int) -> np.ndarray:
    """Angles of rotary positions: length pairs."""
    frequencies = 10.0 ** (-np.arange(features // 2) / (features // 2))
    return np.arange(length)[:, None] * frequencies


def rotated(x: Any, style: str, where: Any) -> Any:
    """Rotary positions: pairs of neighbours, or of both halves."""
    turn = angles(x.shape[-2], x.shape[-1])
    cos, sin = (where.asarray(f(turn)) for f in (np.cos, np.sin))
    cos, sin = (each.to(x.dtype) if where is torch else each.astype(x.dtype) for each in (cos, sin))
    pattern = "b h l (p two) -> two b h l p" if style == "interleaved" else "b h l (two p) -> two b h l p"
    one, other = rearrange(x, pattern, two=2)
    both = where.stack([one * cos - other * sin, one * sin + other * cos])
    left, right = pattern.split(" -> ")
    return rearrange(both, f"{right} -> {left}")


def mixed(query: Any, key: Any, value: Any, sizes: Sizes, where: Any) -> Any:
    """Causal attention with groups of heads."""
    repeat = sizes.heads // sizes.groups
    if repeat > 1:
        key, value = (
            torch.repeat_interleave(x, repeat, 1) if where is torch else jnp.repeat(x, repeat, 1)
            for x in (key, value)
        )
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    mask = where.tril(where.ones(scores.shape[-2:])) > 0
    scores = where.where(mask, scores, -1e9)
    weights = torch.softmax(scores, -1) if where is torch else jax.nn.softmax(scores, -1)
    return rearrange(weights @ value, "b h l d -> b l (h d)")


def hidden(x: Any, module: Any, spelling: Spelling, where: Any) -> Any:
    """The hidden features of a feed-forward, gated or not."""
    silu = torch.nn.functional.silu if where is torch else jax.nn.silu
    if not spelling.gated:
        return silu(getattr(module, spelling.up[0])(x))
    if len(spelling.up) == 2:
        gate, up = (getattr(module, name)(x) for name in spelling.up)
    else:
        both = getattr(module, spelling.up[0])(x)
        middle = both.shape[-1] // 2
        gate, up = both[..., :middle], both[..., middle:]
        gate, up = (gate, up) if spelling.gate_first else (up, gate)
    return silu(gate) * up


def compute(model: Any, tokens: Any, spelling: Spelling, sizes: Sizes, where: Any) -> Any:
    """The logits of a decoder of either framework."""
    x = getattr(model, spelling.tokens)(tokens)
    if not spelling.rope:
        x = x + getattr(model, spelling.positions)(where.arange(tokens.shape[1]))
    for block in getattr(model, spelling.blocks):
        attention = find(block, spelling.attention)
        normed = getattr(block, spelling.norms[0])(x)
        if len(spelling.qkv) == 3:
            query, key, value = apart(normed, attention, spelling, sizes)
        else:
            query, key, value = split(getattr(attention, spelling.qkv[0])(normed), spelling, sizes)
        if spelling.rope:
            query, key = (rotated(each, spelling.rope, where) for each in (query, key))
        x = x + getattr(attention, spelling.out)(mixed(query, key, value, sizes, where))
        ffn = find(block, spelling.ffn)
        normed = getattr(block, spelling.norms[1])(x)
        x = x + getattr(ffn, spelling.down)(hidden(normed, ffn, spelling, where))
    x = getattr(model, spelling.last)(x)
    if spelling.head:
        return getattr(model, spelling.head)(x)
    table = getattr(model, spelling.tokens)
    return x @ (table.weight if where is torch else table.embedding.get_value()).T


class TorchGPT(nn.Module):
    def __init__(self, spelling: Spelling, sizes: Sizes) -> None:
        super().__init__()
        self.spelling, self.sizes = spelling, sizes
        build(self, spelling, sizes, torch_parts(spelling))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return compute(self, tokens, self.spelling, self.sizes, torch)


class JaxGPT(nnx.Module):
    def __init__(self, spelling: Spelling, sizes: Sizes) -> None:
        self.spelling, self.sizes = spelling, sizes
        build(self, spelling, sizes, jax_parts(spelling))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return compute(self, tokens, self.spelling, self.sizes, jnp)


class Parts(NamedTuple):
    linear: Callable[[int, int], Any]
    norm: Callable[[int], Any]
    embedding: Callable[[int, int], Any]
    module: Any
    many: Any


def torch_parts(spelling: Spelling) -> Parts:
    norm = nn.RMSNorm if spelling.rms else nn.LayerNorm
    return Parts(
        lambda i, o: nn.Linear(i, o, bias=spelling.bias),
        lambda i: norm(i, eps=1e-5),
        nn.Embedding,
        nn.Module,
        nn.ModuleList,
    )


def jax_parts(spelling: Spelling) -> Parts:
    norm = nnx.RMSNorm if spelling.rms else nnx.LayerNorm
    rngs = nnx.Rngs(0)
    return Parts(
        lambda i, o: nnx.Linear(i, o, use_bias=spelling.bias, rngs=rngs),
        lambda i: norm(i, epsilon=1e-5, rngs=rngs),
        lambda n, i: nnx.Embed(n, i, rngs=rngs),
        nnx.Module,
        nnx.List,
    )


def build(model: Any, spelling: Spelling, sizes: Sizes, parts: Parts) -> None:
    """Put the parts into a model, under the names of the spelling."""
    width, few = sizes.width, sizes.groups * sizes.width // sizes.heads
    setattr(model, spelling.tokens, parts.embedding(sizes.vocabulary, width))
    if not spelling.rope:
        setattr(model, spelling.positions, parts.embedding(sizes.length, width))
    blocks = []
    for _ in range(sizes.layers):
        block = parts.module()
        for path in (spelling.attention, spelling.ffn):
            if path:
                setattr(block, path, parts.module())
        attention, ffn = find(block, spelling.attention), find(block, spelling.ffn)
        setattr(block, spelling.norms[0], parts.norm(width))
        outs = (width, few, few) if len(spelling.qkv) == 3 else (width + 2 * few,)
        for name, size in zip(spelling.qkv, outs, strict=True):
            setattr(attention, name, parts.linear(width, size))
        setattr(attention, spelling.out, parts.linear(width, width))
        setattr(block, spelling.norms[1], parts.norm(width))
        double = spelling.gated and len(spelling.up) == 1
        for name in spelling.up:
            setattr(ffn, name, parts.linear(width, sizes.hidden * (2 if double else 1)))
        setattr(ffn, spelling.down, parts.linear(sizes.hidden, width))
        blocks.append(block)
    setattr(model, spelling.blocks, parts.many(blocks))
    setattr(model, spelling.last, parts.norm(width))
    if spelling.head:
        setattr(model, spelling.head, parts.linear(width, sizes.vocabulary))


class Pair(NamedTuple):
    """Two models with equal functions, and inputs of each."""

    torch: Callable[[], Any]
    jax: Callable[[], Any]
    inputs: Any
    inputs_jax: Any = None
    error: float = 1e-12  # of outputs in float64


JAX = Spelling(
    attention="attention",
    qkv=("query", "key", "value"),
    out="out",
    ffn="feed_forward",
    up=("up",),
    down="down",
    norms=("norm1", "norm2"),
    tokens="tok_embed",
    positions="pos_embed",
    blocks="blocks",
    last="final_norm",
    head="unembed",
)
# Names that say nothing.
OPAQUE = Spelling(
    attention="mixer",
    qkv=("alpha", "beta", "gamma"),
    out="delta",
    ffn="inner",
    up=("one", "two"),
    gated=True,
    down="third",
    norms=("scale_a", "scale_b"),
    tokens="table",
    positions="places",
    blocks="stack",
    last="tail",
    head="readout",
)


def gpts(theirs: Spelling, ours: Spelling, sizes: Sizes = SIZES) -> Pair:
    return Pair(lambda: TorchGPT(theirs, sizes), lambda: JaxGPT(ours, sizes), TOKENS)


FUSED = Spelling(qkv=("c_attn",), out="c_proj")
GATED_JAX = JAX._replace(gated=True, up=("gate", "up"))


class ConvStem(nn.Module):
    """Images: a convolution, a batch norm, a block of raw parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, (2, 4)), nn.BatchNorm2d(5))
        self.weight_in = nn.Parameter(torch.randn(5, 5))
        self.bias_in = nn.Parameter(torch.randn(5))
        self.classifier = nn.Linear(5, 4)
        self.register_buffer("scaling", torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x)).mean((-1, -2)) * self.scaling
        return self.classifier(torch.tanh(x @ self.weight_in + self.bias_in))


class JaxConvStem(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(3, 5, (2, 4), padding="VALID", rngs=rngs)
        self.bn = nnx.BatchNorm(5, epsilon=1e-5, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(5, 5, rngs=rngs)
        self.top = nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.bn(self.patches(x))).mean((1, 2)) * 2.0
        return self.top(jnp.tanh(self.dense(x)))


class RawAttention(nn.Module):
    """Attention of own parameters, all square, one of them applied from the left."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Parameter(torch.randn(6, 6) / 3) for _ in range(4))
        self.bq = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = x @ self.wq + self.bq, x @ self.wk, torch.einsum("oi,bli->blo", self.wv, x)
        return torch.softmax(query @ key.mT, -1) @ value @ self.wo


class JaxRawAttention(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.query = nnx.Linear(6, 6, rngs=rngs)
        self.key = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(6, 6, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(self.query(x) @ self.key(x).swapaxes(-1, -2), -1)
        return self.out(weights @ self.value(x))


class TorchHeads(nn.Module):
    """One fused projection, the order of heads outside."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = rearrange(self.to_qkv(x), "b l (h k d) -> k b h l d", k=3, h=2)
        heads = torch.softmax(query @ key.mT / 2, -1) @ value
        return self.to_out(rearrange(heads, "b h l d -> b l (h d)"))


X = np.random.default_rng(5).standard_normal((2, 9, 6)).astype(np.float32)
WIDER = np.random.default_rng(7).standard_normal((2, 9, 8)).astype(np.float32)
IMAGES = np.random.default_rng(6).standard_normal((2, 3, 7, 9)).astype(np.float32)

PAIRS = {
    "fused by block, tied": gpts(FUSED._replace(head=""), JAX._replace(head="")),
    "fused by head": gpts(FUSED._replace(rows="hkd"), JAX),
    "parts innermost, keys first": gpts(FUSED._replace(rows="hdk", order="kqv"), JAX),
    "features outside heads, values first": gpts(FUSED._replace(rows="kdh", order="vkq"), JAX),
    "square, fused SwiGLU, renamed norms": gpts(
        FUSED._replace(
            rows="hkd", gated=True, up=("w12",), gate_first=False, down="w3", norms=("pre_a", "pre_m")
        ),
        GATED_JAX,
        SQUARE,
    ),
    "square, names that say nothing": gpts(
        FUSED._replace(order="vqk", gated=True, up=("w12",), gate_first=False, down="w3"), OPAQUE, SQUARE
    ),
    "rotary pairs, grouped heads": gpts(
        Spelling(rope="interleaved", rms=True, bias=False),
        JAX._replace(rope="half", rms=True, bias=False),
        Sizes(width=24, heads=4),
    ),
    "fused, rotary pairs": gpts(
        FUSED._replace(rope="half", rows="hkd"), JAX._replace(rope="interleaved"), Sizes(width=16, heads=2)
    ),
    "fused grouped heads": gpts(FUSED._replace(order="kvq"), JAX, Sizes(width=24, heads=4)),
    "fused on both sides": gpts(
        FUSED._replace(order="kqv", gated=True, up=("w13",)),
        GATED_JAX._replace(qkv=("qkv",), rows="hkd", up=("gate_up",), gate_first=False),
    ),
    "flat blocks": gpts(
        Spelling(attention="", ffn="", gated=True, up=("gate", "up"), down="down"), GATED_JAX
    ),
    "convolution, batch norm, own parameters": Pair(
        ConvStem, JaxConvStem, IMAGES, np.moveaxis(IMAGES, 1, -1)
    ),
    "own parameters, square": Pair(RawAttention, JaxRawAttention, X),
    "attention of Flax": Pair(
        TorchHeads,
        lambda: nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0)),
        WIDER,
        error=4 * 2**-24,  # Flax computes scores in float32
    ),
}
