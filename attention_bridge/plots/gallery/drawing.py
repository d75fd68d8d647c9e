"""Compute all mechanisms in either framework, and make panels of a poster from mechanisms and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attention_bridge.catalogue import CATALOGUE, Mechanism, Part
from attention_bridge.catalogue.part import build
from attention_bridge.errors import InputError
from attention_bridge.parity.instances import jax_with
from attention_bridge.parity.run import named_outputs, on_platform
from attention_bridge.plots.gallery.instances import inputs, parameters, part
from attention_bridge.plots.gallery.maps import Map, maps
from attention_bridge.plots.gallery.masks import NOTES
from attention_bridge.plots.posters import Panel
from attention_bridge.weights import transfer

MASKS = "masks"
TITLES = {
    MASKS: "Masks: which keys a query may attend to",
    "basics": "Basic attention",
    "self": "Self-attention",
    "cross": "Cross-attention, from the words in another order",
    "models": "Whole models",
    "heads": "Heads that share keys and values",
    "positions": "Positions",
    "patterns": "Patterns of positions",
    "scores": "From scores to weights",
    "gates": "Gates",
    "linear": "Linear and recurrent",
    "low_rank": "Low rank",
    "sparse": "Sparse, chosen by content",
    "vision": "Images: the words as a grid of 4 by 6",
    "latents": "Learned queries, sets and slots",
    "classic": "Classic attention, mostly without dot products",
}
FAMILIES = tuple(dict.fromkeys((MASKS, *(mechanism.family for mechanism in CATALOGUE))))


def mechanisms(families: Sequence[str]) -> list[Mechanism]:
    """The mechanisms of the catalogue in the given families.

    Raises:
        InputError: a family does not exist.
    """
    if unknown := [name for name in families if name not in FAMILIES]:
        raise InputError(f"family must be one of {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    return [mechanism for mechanism in CATALOGUE if mechanism.family in families]


def compute(mechanism: Mechanism, framework: str) -> list[Map]:
    """Compute the matrices of a mechanism on the sentence, in float64, with the mirror of a framework."""
    what, given = part(mechanism), inputs(mechanism)
    run = _run_torch if framework == "torch" else _run_jax
    named = run(what, parameters(what), {**given, **mechanism.options(True)})
    return maps(mechanism, given, named)


def panels(mechanism: Mechanism, found: Sequence[Map]) -> list[Panel]:
    """Make one panel per matrix of a mechanism; its title is the mechanism's name."""
    name, _, variant = mechanism.name.partition("-")
    paper = f"{mechanism.paper.authors} {mechanism.paper.year}"
    notes = [", ".join(filter(None, (variant.replace("-", " "), each.label))) for each in found]
    return [
        Panel(name, each.matrix, note or paper, each.kind) for note, each in zip(notes, found, strict=True)
    ]


def mask_panels(found: Mapping[str, np.ndarray]) -> list[Panel]:
    """Make one panel per mask; its title is the name of the mask function."""
    return [Panel(name, matrix, NOTES.get(name, ""), "mask") for name, matrix in found.items()]


def _run_torch(what: Part, weights: dict[str, np.ndarray], given: dict[str, Any]) -> dict[str, np.ndarray]:
    import torch

    module = transfer(weights, build(what, "torch_attention", {"dtype": torch.float64}).eval())
    tensors = {name: torch.tensor(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    with torch.inference_mode():
        return {name: np.asarray(x) for name, x in named_outputs(module(**tensors)).items()}


def _run_jax(what: Part, weights: dict[str, np.ndarray], given: dict[str, Any]) -> dict[str, np.ndarray]:
    from flax import nnx
    from jax import numpy as jnp

    arrays = {name: x for name, x in given.items() if isinstance(x, np.ndarray)}
    options = {name: x for name, x in given.items() if name not in arrays}
    with on_platform("cpu", float64=True):
        module = jax_with(what, weights, {"param_dtype": "float64"})
        call = nnx.jit(lambda module, arrays: module(**arrays, **options))
        result = call(module, {name: jnp.asarray(x) for name, x in arrays.items()})
        return {name: np.asarray(x) for name, x in named_outputs(result).items()}
