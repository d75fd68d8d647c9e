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
    x: Float[Array, "batch length *streams embed"],
    mask: Bool[Array, "..."] | None,
    memories: Sequence[Any],
    call: LayerCall,
    *,
    inputs: Sequence[Any] | None = None,
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
        inputs: vectors of the tokens for each layer, `(batch, length, dim)`; None for none.
        scan_layers: whether equal layers share one compiled program.
        remat: whether activations inside a layer are recomputed in the backward pass instead of stored.
    """
    found: list[CachedOutput] = []
    kept: dict[int | None, Any] = {}  # keys and values that later layers attend to
    sources = {layer.kv_layer for layer in layers}
    runs = (
        _runs(layers, sources) if scan_layers and not call["reads_on"] else [[n] for n in range(len(layers))]
    )
    for run in runs:
        if len(run) > 1:
            found += _scanned([layers[n] for n in run], x, mask, call, remat)
        else:
            n = run[0]
            sharing: Any = {"shared": kept.get(layers[n].kv_layer), "shares": n in sources}
            given: LayerCall = {**call, "memory": memories[n], **sharing}
            found.append(_run(layers[n], x, mask, given, None if inputs is None else inputs[n], remat))
            if n in sources:
                kept[n] = found[n].cache
                found[n] = found[n]._replace(cache=kept[n].cache)
        x = found[-1].output  # batch length embed
    return found


def _runs(layers: Any, sources: set[int | None]) -> list[list[int]]:
    """Group the indices of consecutive layers of equal structure: the same classes, options and shapes.

    A layer that shares keys and values, or that reads vectors of the tokens, has a group of its own.
    """
    runs: list[list[int]] = []
    before: Any = None
    for n, layer in enumerate(layers):
        graphdef, state = nnx.split(layer)
        kind = graphdef, [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
        alone = n in sources or layer.kv_layer is not None or hasattr(layer, "token_input")
        if kind == before and not alone:
            runs[-1].append(n)
        else:
            runs.append([n])
        before = None if alone else kind
    return runs


def _run(
    layer: Layer, x: Array, mask: Array | None, call: LayerCall, token: Array | None, remat: bool
) -> CachedOutput:
    if not remat:
        return layer.run(x, mask, call, token)
    graphdef, state = nnx.split(layer)

    def run(state: Any, x: Array, memory: Any) -> tuple[CachedOutput, Any]:
        held = nnx.merge(graphdef, state)
        read = held.run(x, mask, {**call, "memory": memory}, token)
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
        read = layer.run(x, mask, call, None)
        return read.output, (read, nnx.state(layer, nnx.RngState))

    _, (reads, drawn) = lax.scan(jax.checkpoint(step) if remat else step, x, stacked)
    found = []
    for n, layer in enumerate(layers):
        nnx.update(layer, jax.tree.map(lambda leaf, n=n: leaf[n], drawn))
        found.append(jax.tree.map(lambda leaf, n=n: leaf[n], reads))
    return found
