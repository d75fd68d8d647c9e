"""Incremental decoding: a sequence in chunks gives the outputs of the whole sequence, for every mechanism."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, Mechanism, Part
from attention_bridge.parity.comparison import error, summed_terms, tolerances
from attention_bridge.parity.instances import build, cast_parameters, inputs, jax_with
from attention_bridge.parity.run import Arrays, is_float
from attention_bridge.weights import transfer

pytestmark = pytest.mark.slow

# Mechanisms that attend no further back than a rolling cache reaches, and the arguments they share with it.
ROLLING = {"SlidingWindowAttention": ("window",), "StreamingAttention": ("window", "num_sinks")}
MIRRORS = {
    "torch": SimpleNamespace(package=torch_attention, array=torch.from_numpy),
    "jax": SimpleNamespace(package=jax_attention, array=jnp.asarray),
}


def those(condition: Callable[[Mechanism], Any]) -> Any:
    """Parametrise a test over the mechanisms that satisfy `condition`; positional encodings are slow tests."""
    return pytest.mark.parametrize(
        "mechanism",
        [
            pytest.param(m, id=m.name, marks=[pytest.mark.slow] if m.family == "positions" else [])
            for m in CATALOGUE
            if condition(m)
        ],
    )


each_with_a_cache = those(lambda mechanism: mechanism.decoding in ("cache", "caches"))
with_and_without_a_mask = pytest.mark.parametrize(
    "masked", [pytest.param(False, marks=pytest.mark.slow), True], ids=["all tokens", "padding"]
)
each_with_a_state = those(lambda mechanism: mechanism.decoding == "state")


@cache
def readers(mechanism: Mechanism) -> dict[str, Any]:
    """The mechanism in both mirrors with the same weights, built for incremental decoding."""
    part = Part(mechanism.module.name, {**mechanism.module.arguments, **mechanism.decoding_options})
    weights = cast_parameters(mechanism, "float32")
    ours = transfer(weights, build(part, "torch_attention", {})).eval()
    graphdef, state = nnx.split(jax_with(part, weights, {}))
    compiled = jax.jit(lambda state, given: nnx.merge(graphdef, state)(**given))
    return {"torch": lambda **given: ours(**given), "jax": lambda **given: compiled(state, given)}


def given(mechanism: Mechanism, *, masked: bool) -> Arrays:
    """Float32 inputs without positions; if `masked`, with a random padding mask."""
    found = {
        name: x.astype(np.float32) if is_float(x) else x
        for name, x in inputs(mechanism, "none").items()
        if name != "positions"
    }
    if masked:
        rng = np.random.default_rng(3)
        name = next(name for name in mechanism.masks if name != "memory_mask")
        batch, length = found[growing(found)].shape[:2]
        mask = rng.random((batch, 1, 1, length)) < 0.6
        mask[..., 0] = True
        found[name] = mask
    return found


def growing(arrays: Arrays) -> str:
    """The name of the input that is split into chunks."""
    return "x" if "x" in arrays else "tokens"


def parts(arrays: Arrays, chunks: tuple[int, ...]) -> Iterator[Arrays]:
    """The inputs of each call; a cross-attention memory is passed whole to each."""
    axes = {growing(arrays): 1, "mask": 3, "self_mask": 3}
    cuts = np.cumsum(chunks)[:-1]
    pieces = {name: np.split(x, cuts, axis=axes[name]) for name, x in arrays.items() if name in axes}
    for n in range(len(chunks)):
        yield {
            name: np.ascontiguousarray(pieces[name][n]) if name in axes else x for name, x in arrays.items()
        }


def caches(mechanism: Mechanism, package: Any, length: int) -> Iterator[Any]:
    """Empty caches of every kind that the mechanism supports."""
    yield package.StaticCache(capacity=length + 2)
    yield package.GrowingCache()
    if mechanism.name in ROLLING:
        yield package.RollingCache(*(mechanism.module.arguments[name] for name in ROLLING[mechanism.name]))


def read(
    mechanism: Mechanism, mirror: str, arrays: Arrays, chunks: tuple[int, ...], memory: Any
) -> np.ndarray:
    """The concatenated outputs of all calls."""
    found = []
    for part in parts(arrays, chunks):
        shown = {name: MIRRORS[mirror].array(x) for name, x in part.items()}
        result = readers(mechanism)[mirror](**shown, **{mechanism.decoding: memory})
        memory = getattr(result, mechanism.decoding)
        found.append(numpy(result.output))
    return np.concatenate(found, axis=1)


def whole(mechanism: Mechanism, mirror: str, arrays: Arrays) -> np.ndarray:
    """The output for the whole sequence."""
    shown = {name: MIRRORS[mirror].array(x) for name, x in arrays.items()}
    return numpy(readers(mechanism)[mirror](**shown).output)


def numpy(x: Any) -> np.ndarray:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def bound(mechanism: Mechanism, arrays: Arrays) -> float:
    """The tolerance of the proof."""
    terms = summed_terms(cast_parameters(mechanism, "float32"), arrays)
    return tolerances("float32", terms)["output"]


def several(mechanism: Mechanism, cache: Any) -> Any:
    """The cache, or a tuple with one cache per layer of a model."""
    if mechanism.decoding == "cache":
        return cache
    return (cache,) * mechanism.module.arguments["config"].arguments["num_layers"]


@each_with_a_cache
@with_and_without_a_mask
@pytest.mark.parametrize("mirror", MIRRORS)
def test_chunks_with_a_cache_equal_the_whole_sequence(
    mechanism: Mechanism, mirror: str, masked: bool
) -> None:
    arrays = given(mechanism, masked=masked)
    length = arrays[growing(arrays)].shape[1]
    expected = whole(mechanism, mirror, arrays)
    for empty in caches(mechanism, MIRRORS[mirror].package, length):
        for chunks in ((2, 1, length - 3),) if mirror == "jax" else ((2, 1, length - 3), (1,) * length):
            found = read(mechanism, mirror, arrays, chunks, several(mechanism, empty))
            assert error(found, expected) <= bound(mechanism, arrays), (type(empty).__name__, chunks)


@each_with_a_state
@with_and_without_a_mask
@pytest.mark.parametrize("mirror", MIRRORS)
def test_chunks_with_a_state_equal_the_whole_sequence(
    mechanism: Mechanism, mirror: str, masked: bool
) -> None:
    arrays = given(mechanism, masked=masked)
    found = read(mechanism, mirror, arrays, (2, 1, arrays["x"].shape[1] - 3), None)
    assert error(found, whole(mechanism, mirror, arrays)) <= bound(mechanism, arrays)


@those(lambda mechanism: mechanism.decoding)
def test_lost_state_is_detected(mechanism: Mechanism) -> None:
    arrays = given(mechanism, masked=False)
    length = arrays[growing(arrays)].shape[1]
    expected = whole(mechanism, "torch", arrays)
    (_, later) = parts(arrays, (1, length - 1))
    assert error(whole(mechanism, "torch", later), expected[:, 1:]) > 1e3 * bound(mechanism, arrays)


def test_causal_mechanism_decodes_or_says_why_not() -> None:
    entries = defaultdict(list)
    for mechanism in CATALOGUE:
        entries[mechanism.module.name].append(mechanism)
    for name, mechanisms in entries.items():
        made = getattr(torch_attention, name, None)
        causal = any(mechanism.causal for mechanism in mechanisms)
        if causal or (made is not None and "is_causal" in inspect.signature(made).parameters):
            assert any(mechanism.decoding or mechanism.no_decoding for mechanism in mechanisms), name
