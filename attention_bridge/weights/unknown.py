"""Detection of tensors that match only a mirror layout's catch-all rule and that no module of the mirrors has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attention_bridge.weights.engine import enter, move
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.report import Report


def takes_anything(layout: Layout) -> bool:
    """Whether a rule of the layout matches any name, as in the canonical layout and the JAX mirror's layouts."""
    return any(rule.theirs == "{rest}" for rule in layout.rules)


def unknown(
    tensors: Mapping[str, np.ndarray], source: Layout, axes: Mapping[str, int], target: Layout | None = None
) -> list[str]:
    """The source names that no module of the mirrors has with this number of axes.

    A name is known if its canonical name is known and converts back to the same name: `norm.weight` is unknown in
    `jax_attention`, which calls it `norm.scale`.

    Args:
        tensors: arrays or ghost arrays by name.
        source: layout of `tensors`.
        axes: sizes of axes that the shapes do not give.
        target: layout to convert to, which may carry names that no module has; None for none.
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
