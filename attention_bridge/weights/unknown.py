"""The tensors that only the last rule of a mirror's layout takes, which takes anything, and no module has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attention_bridge.weights.engine import enter, move
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.report import Report


def takes_anything(layout: Layout) -> bool:
    """Whether a rule of the layout takes any name: the hub and what is spelled almost as it."""
    return any(rule.theirs == "{rest}" for rule in layout.rules)


def unknown(
    tensors: Mapping[str, np.ndarray], source: Layout, axes: Mapping[str, int], target: Layout | None = None
) -> list[str]:
    """The given names that no module of the mirrors has, or not with so many axes.

    A name is that of a module if the hub's name for it is, and if that leads back to it: `norm.weight` is no name of
    `jax_attention`, which says `norm.scale`.

    Args:
        tensors: by the names of `source`, or stand-ins of their shapes.
        source: their layout.
        axes: as in `convert`.
        target: the layout to convert to, which may carry names that no module has.
    """
    from attention_bridge.weights.layouts.mirror_names import (
        is_known,  # here, because the tables import the rules
    )

    if not takes_anything(source):
        return []
    if target is not None and target.carried is not None:
        tensors = {name: x for name, x in tensors.items() if not target.carries(source.canonical(name))}
    aside = Report(source.name, "")
    entered = enter(tensors, source, aside)
    hub = move(entered, source.to_hub, axes, aside)
    strange = [item for name, item in hub.items() if not is_known(name, item.array.ndim)]
    back = move(hub, source.from_hub, axes, aside)
    strange += [item for name, item in back.items() if name not in entered]
    return list(dict.fromkeys(origin for item in strange for origin in item.origins))
