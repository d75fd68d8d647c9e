"""The smallest translation model of each kind, in both mirrors with the same random weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_attention
import jax_attention.models
import torch_attention
import torch_attention.models
from attention_bridge.parity.run import on_platform
from attention_bridge.weights import transfer

BATCH, SOURCE, TARGET = 2, 7, 5
SRC_VOCAB, TGT_VOCAB, EMBED, HEADS, LAYERS, FFN, MAX_LEN, HIDDEN = 11, 9, 12, 3, 2, 13, 8, 10
STACK = (LAYERS, HEADS, FFN)


def translator(name: str, package: Any, vocab: int = TGT_VOCAB, **f: Any) -> Any:
    """A model of a mirror; `vocab` is the size of its target vocabulary."""
    m = package.models
    if name == "SimpleSeq2Seq":
        return m.SimpleSeq2Seq(SRC_VOCAB, vocab, EMBED, HEADS, LAYERS, ffn_dim=FFN, max_len=MAX_LEN, **f)
    if name == "EncoderDecoder":
        stack = m.StackConfig(*STACK)
        return m.EncoderDecoder(m.EncoderDecoderConfig(SRC_VOCAB, EMBED, stack, stack, MAX_LEN), **f)
    if name == "RelativeEncoderDecoder":
        sizes = (EMBED, HEADS, 4, 1, LAYERS, FFN)
        config = m.RelativeEncoderDecoderConfig(SRC_VOCAB, *sizes)
        return m.RelativeEncoderDecoder(config, **f)
    attention = {
        "Bahdanau": lambda: package.BasicAttention(HIDDEN, HIDDEN, 6, **f),
        "Luong, dot": lambda: package.LuongAttention(package.DotScore()),
        "Luong, general": lambda: package.LuongAttention(package.GeneralScore(HIDDEN, HIDDEN, **f)),
    }[name]()
    return m.RecurrentSeq2Seq(SRC_VOCAB, vocab, EMBED, HIDDEN, attention, **f)


class Pair(NamedTuple):
    """A model in both mirrors."""

    torch: torch.nn.Module
    jax: nnx.Module


@cache
def pair(name: str, dtype: str, vocab: int = TGT_VOCAB) -> Pair:
    """The model in both mirrors, in evaluation mode, with weights that give clearly separated logits."""
    ours = translator(name, torch_attention, vocab, dtype=getattr(torch, dtype)).eval()
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for parameter_name, x in ours.named_parameters():
            centre = 1.0 if parameter_name.endswith("norm.weight") else 0.0
            # Rounded to float32, so that both precisions have the same weights.
            drawn = (centre + 0.6 * rng.standard_normal(tuple(x.shape))).astype(np.float32)
            x.copy_(torch.from_numpy(drawn))
    with on_platform("cpu", float64=dtype == "float64"):
        theirs = translator(name, jax_attention, vocab, rngs=nnx.Rngs(0), param_dtype=dtype)
        theirs.eval()
        return Pair(ours, transfer(ours, theirs))


class Mirror(NamedTuple):
    """The functions and the model that a test uses in one mirror."""

    name: str
    models: Any
    model: Any
    array: Any


@contextmanager
def mirror(framework: str, name: str, dtype: str = "float32", vocab: int = TGT_VOCAB) -> Iterator[Mirror]:
    """A context with a model of one mirror, in its precision."""
    both = pair(name, dtype, vocab)
    if framework == "torch":
        with torch.no_grad():
            yield Mirror("torch", torch_attention.models, both.torch, torch.from_numpy)
        return
    with on_platform("cpu", float64=dtype == "float64"):
        yield Mirror("jax", jax_attention.models, both.jax, jnp.asarray)


def tokens(vocab: int = TGT_VOCAB) -> tuple[np.ndarray, np.ndarray]:
    """Two source texts, and their targets so far."""
    rng = np.random.default_rng(4)
    source = rng.integers(1, SRC_VOCAB, (BATCH, SOURCE)).astype(np.int32)
    return source, rng.integers(1, vocab, (BATCH, TARGET)).astype(np.int32)


def padded(length: int, shown: int, in_front: bool = False) -> np.ndarray:
    """A mask of two texts, the second of which has only `shown` tokens."""
    mask = np.ones((BATCH, 1, 1, length), bool)
    mask[1, ..., slice(None, length - shown) if in_front else slice(shown, None)] = False
    return mask


@nnx.jit(static_argnames="call")
def _in_jax(model: nnx.Module, arrays: tuple[Any, ...], call: str) -> Any:
    return getattr(model, call)(*arrays)


def call(m: Mirror, name: str, *arrays: np.ndarray | None) -> Any:
    """The result of a method of a model, compiled in JAX."""
    given = tuple(None if x is None else m.array(x) for x in arrays)
    return getattr(m.model, name)(*given) if m.name == "torch" else _in_jax(m.model, given, name)


def numpy(x: Any) -> np.ndarray:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def sums(name: str) -> int:
    """The number of terms that are summed from the inputs to the logits of a model."""
    attention = 2 * EMBED + EMBED // HEADS + SOURCE
    if name in ("SimpleSeq2Seq", "EncoderDecoder", "RelativeEncoderDecoder"):
        return LAYERS * (3 * attention + 2 * (EMBED + FFN)) + EMBED
    reading = SOURCE * (EMBED + HIDDEN // 2)
    return reading + TARGET * (EMBED + 3 * HIDDEN + 2 * HIDDEN + SOURCE) + 3 * HIDDEN
