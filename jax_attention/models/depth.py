"""Run the layers of a model, with scanning (one compiled program for equal layers) and rematerialisation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Bool, Float

from jax_attention.models.arrangements.layer import Layer, LayerCall
from jax_attention.outputs import CachedOutput


def run_layers(
    layers: Any,
    x: Float[Array, "batch length embed"],
    mask: Bool[Array, "..."] | None,
    memories: Sequence[Any],
    call: LayerCall,
    *,
    scan_layers: bool,
    remat: bool,
) -> list[CachedOutput]:
    """Run all layers and return the result of each.

    Args:
        layers: layers of the model, in order.
        x: input of the first layer.
        mask: mask of every layer.
        memories: KV cache or recurrent state of each layer; None for a layer without one.
        call: other arguments of each layer's call.
        scan_layers: whether equal layers share one compiled program.
        remat: whether activations inside a layer are recomputed in the backward pass instead of stored.
    """
    found: list[CachedOutput] = []
    runs = _runs(layers) if scan_layers and not call["reads_on"] else [[n] for n in range(len(layers))]
    for run in runs:
        if len(run) > 1:
            found += _scanned([layers[n] for n in run], x, mask, call, remat)
        else:
            found.append(_run(layers[run[0]], x, mask, {**call, "memory": memories[run[0]]}, remat))
        x = found[-1].output  # batch length embed
    return found


def _runs(layers: Any) -> list[list[int]]:
    """Group the indices of consecutive layers of equal structure: the same classes, options and shapes."""
    runs: list[list[int]] = []
    before: Any = None
    for n, layer in enumerate(layers):
        graphdef, state = nnx.split(layer)
        kind = graphdef, [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
        if kind == before:
            runs[-1].append(n)
        else:
            runs.append([n])
        before = kind
    return runs


def _run(layer: Layer, x: Array, mask: Array | None, call: LayerCall, remat: bool) -> CachedOutput:
    if not remat:
        return layer(x, mask, **call)
    graphdef, state = nnx.split(layer)

    def run(state: Any, x: Array, memory: Any) -> tuple[CachedOutput, Any]:
        held = nnx.merge(graphdef, state)
        read = held(x, mask, **{**call, "memory": memory})
        return read, nnx.state(held, nnx.RngState)

    read, drawn = jax.checkpoint(run)(state, x, call["memory"])
    nnx.update(layer, drawn)
    return read


def _scanned(
    layers: list[Layer], x: Array, mask: Array | None, call: LayerCall, remat: bool
) -> list[CachedOutput]:
    """Run equal layers with `lax.scan` over their stacked parameters."""
    parts = [nnx.split(layer) for layer in layers]
    graphdef = parts[0][0]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in parts))

    def step(x: Array, state: Any) -> tuple[Array, Any]:
        layer = nnx.merge(graphdef, state)
        read = layer(x, mask, **call)
        return read.output, (read, nnx.state(layer, nnx.RngState))

    _, (reads, drawn) = lax.scan(jax.checkpoint(step) if remat else step, x, stacked)
    found = []
    for n, layer in enumerate(layers):
        nnx.update(layer, jax.tree.map(lambda leaf, n=n: leaf[n], drawn))
        found.append(jax.tree.map(lambda leaf, n=n: leaf[n], reads))
    return found
