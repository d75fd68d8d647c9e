"""Run the layers of a model, with scanning (one compiled program for equal layers) and rematerialisation."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torch_attention.models.arrangements.layer import Layer, LayerCall
from torch_attention.outputs import CachedOutput


def run_layers(
    layers: Any,
    x: Float[Tensor, "batch length *streams embed"],
    mask: Bool[Tensor, "..."] | None,
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
    for n, (layer, memory) in enumerate(zip(layers, memories, strict=True)):
        by_itself = scan_layers and not call["reads_on"] and not torch.compiler.is_compiling()
        run = _compiled() if by_itself else _run
        sharing = {"shared": kept.get(layer.kv_layer), "shares": n in sources}
        given: Any = (
            layer,
            x,
            mask,
            {**call, "memory": memory, **sharing},
            None if inputs is None else inputs[n],
        )
        again = remat and torch.is_grad_enabled()
        found.append(checkpoint(run, *given, use_reentrant=False) if again else run(*given))
        if n in sources:
            kept[n] = found[n].cache
            found[n] = found[n]._replace(cache=kept[n].cache)
        x = found[n].output  # batch length embed
    return found


def _run(layer: Layer, x: Tensor, mask: Tensor | None, call: LayerCall, token: Tensor | None) -> CachedOutput:
    return layer.run(x, mask, call, token)


@cache
def _compiled() -> Any:
    """Compile `_run` on first use, because compilers take long to import; equal layers share the program."""
    return torch.compile(_run)
