"""How time and memory of every mechanism grow with the length: `python -m benchmarks.growth`."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge.building import build
from attention_bridge.catalogue import CATALOGUE, Mechanism, Part
from benchmarks.counting import Cost, jax_cost, torch_cost

FIXED_QUERIES = ("SlotAttention",)  # whose queries are the slots


def at_length(mechanism: Mechanism, length: int) -> tuple[Part, dict[str, np.ndarray]]:
    """The mechanism's smallest instance, and inputs of that length for it."""
    side = math.isqrt(length)
    sizes = {**mechanism.sizes, "batch": 1, "query": length, "key": length, "height": side, "width": side}
    if mechanism.name in FIXED_QUERIES:
        sizes["query"] = mechanism.sizes["query"]
    rng = np.random.default_rng(0)

    def shape(axes: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(sizes[axis] for axis in axes)

    given = {
        name: rng.standard_normal(shape(axes)).astype(np.float32) for name, axes in mechanism.inputs.items()
    }
    for name, axes in mechanism.tokens.items():
        given[name] = rng.integers(0, sizes["vocab"], shape(axes)).astype(np.int32)
    for name, x in mechanism.arguments.items():
        given[name] = _argument(name, x, mechanism, length)
    return _part(mechanism.module, length, (side, side)), given


def _argument(name: str, small: np.ndarray, mechanism: Mechanism, length: int) -> np.ndarray:
    if name == "positions":
        axes = small.shape[2:]
        count = np.arange(length, dtype=np.int32).reshape(1, length, *(1 for _ in axes))
        return np.broadcast_to(count, (1, length, *axes)).copy()
    if name == "global_tokens":
        return np.arange(length)[None] % length < 2
    if name == "random_blocks":
        blocks = length // mechanism.module.arguments["block_size"]
        shape = (small.shape[0], blocks, small.shape[2])
        return np.random.default_rng(1).integers(0, blocks, shape).astype(np.int32)
    if name == "previous":
        return np.full((1, length), 1 / length, np.float32)
    raise ValueError(name)


def _part(part: Part, length: int, grid: tuple[int, int]) -> Part:
    """A part with the lengths that it has to know."""
    longer = {"max_len": length, "length": length, "grid_size": grid}
    arguments = {
        name: _part(x, length, grid) if isinstance(x, Part) else longer.get(name, x)
        for name, x in part.arguments.items()
    }
    if part.name.endswith("_frequencies"):
        arguments = dict(part.arguments)
    return Part(part.name, arguments)


def torch_growth(mechanism: Mechanism, length: int, need_weights: bool = False) -> Cost:
    part, given = at_length(mechanism, length)
    module = build(part, "torch_attention", {"device": "cpu"}).eval()
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    return torch_cost(lambda: module(**tensors, **mechanism.options(need_weights)))


def jax_growth(mechanism: Mechanism, length: int, need_weights: bool = False) -> Cost:
    part, given = at_length(mechanism, length)
    module = build(part, "jax_attention", {"rngs": nnx.Rngs(0)})
    module.eval()
    definition, state = nnx.split(module)

    def program(state: Any, given: dict[str, jax.Array]) -> Any:
        return tuple(jax.tree.leaves(nnx.merge(definition, state)(**given, **mechanism.options(need_weights))))

    return jax_cost(program, state, {name: jnp.asarray(x) for name, x in given.items()})


if __name__ == "__main__":
    import sys, time
    names = sys.argv[1:]
    for m in CATALOGUE:
        if names and m.name not in names: continue
        for f in (torch_growth, jax_growth):
            t = time.time()
            try:
                a, b = f(m, 1024), f(m, 2304 if m.family == "vision" else 2048)
                k = math.log(2304/1024 if m.family == "vision" else 2)
                print(f"{m.name:40s} {f.__name__[:5]} ops {b.operations/1e6:9.1f}M n^{math.log(b.operations/a.operations)/k:.2f}  mem {b.peak_bytes/1e6:9.2f}M n^{math.log(b.peak_bytes/a.peak_bytes)/k:.2f} {time.time()-t:.1f}s", flush=True)
            except Exception as e:
                print(m.name, f.__name__, "FAIL", repr(e)[:300], flush=True)
