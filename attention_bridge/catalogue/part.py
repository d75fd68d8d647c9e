"""Classes of the mirrors with their arguments, as data, and functions that build them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Descriptions, whose JSON has no class.
DESCRIPTIONS = ("ModelSpec", "LayerSpec", "StageSpec", "TaskSpec", "VisionHierarchySpec", "WaveformSpec")


@dataclass(frozen=True)
class Part:
    """A class of the mirrors and its constructor arguments, which may be parts too."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def build(part: Part, package: str, options: dict[str, Any]) -> Any:
    """Build a part from the mirror named `package`; `options` are passed to every module in it."""
    layers = importlib.import_module(f"{package}.layers")
    namespaces = (importlib.import_module(package), importlib.import_module(f"{package}.models"), layers)
    make = next(getattr(namespace, part.name) for namespace in namespaces if hasattr(namespace, part.name))
    # Parts inside a description or configuration are not built here: the model builds them.
    inside = _described if part.name.endswith(("Spec", "Config")) else build
    arguments = {name: _built(x, inside, package, options) for name, x in part.arguments.items()}
    accepted = set(inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters)
    if "factory" in accepted:  # a layer
        accepted |= layers.Factory.__annotations__.keys()
    return make(**arguments, **{name: x for name, x in options.items() if name in accepted})


def _built(x: Any, inside: Callable[[Part, str, dict[str, Any]], Any], package: str, options: Any) -> Any:
    if isinstance(x, Part):
        return inside(x, package, options)
    return tuple([_built(each, inside, package, options) for each in x]) if isinstance(x, tuple) else x


def _described(part: Part, package: str, options: dict[str, Any]) -> Any:
    """Convert a part of a description to the mirror's own `Part`, or build a description or configuration."""
    if part.name.endswith(("Spec", "Config", "Tokens")):
        return build(part, package, options)
    models = importlib.import_module(f"{package}.models")
    arguments = {name: _built(x, _described, package, options) for name, x in part.arguments.items()}
    return models.Part(part.name, arguments)


def jax_shapes(part: Part, options: dict[str, Any]) -> Any:
    """Build a part from the JAX mirror with shapes instead of arrays, which saves the time of random initialisation."""
    import jax
    from flax import nnx

    module = nnx.eval_shape(lambda: build(part, "jax_attention", {"rngs": nnx.Rngs(0), **options}))
    drawing = nnx.state(module, nnx.RngState)
    fresh = jax.tree.leaves(nnx.state(nnx.Rngs(0)))  # the key and its counter
    nnx.update(module, jax.tree.map(lambda x: next(y for y in fresh if y.dtype == x.dtype), drawing))
    return module
