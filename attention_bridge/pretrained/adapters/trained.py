"""Parameters of a model that an adapter replaces as a whole, such as a new head, and that PEFT trains with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attention_bridge.errors import ConversionError
from attention_bridge.pretrained.adapters.adapter import Adapter
from attention_bridge.pretrained.adapters.mirrors import mirror_of, modules_of
from attention_bridge.weights import convert
from attention_bridge.weights.layout import Layout


def mark_trained(model: Any, adapter: Adapter, layout: Layout, axes: Mapping[str, int] | None) -> list[Any]:
    """Give the parameters that the adapter replaces the type `nnx.LoRAParam` in JAX.

    Args:
        model: model of either mirror, before its linear layers are adapted.
        adapter: the adapter.
        layout: layout of the base's tensors.
        axes: sizes of axes that the shapes do not give, as for `convert`; None for none.

    Returns:
        These parameters.
    """
    modules, package = modules_of(model), mirror_of(model)
    found = []
    for path in _paths(adapter, layout, package, axes):
        owner, _, name = path.rpartition(".")
        if not hasattr(modules.get(owner), name):
            continue
        parameter = getattr(modules[owner], name)
        if package == "jax_attention":
            from flax import nnx

            parameter = nnx.LoRAParam(parameter.get_value())
            setattr(modules[owner], name, parameter)
        found.append(parameter)
    return found


def _paths(adapter: Adapter, layout: Layout, package: str, axes: Mapping[str, int] | None) -> Iterator[str]:
    """The paths in the model of the replaced tensors that are trained."""
    for plain, (name, *_) in adapter.replaced.items():
        if not adapter.config.trains(plain):
            continue
        try:
            found, _ = convert({plain: adapter.tensors[name]}, layout, package, axes)
        except ConversionError:  # a part of a tensor of the model, such as one of several stacked ones
            continue
        yield from found
