"""A family of checkpoints: how its configuration is read, and which model of the mirrors computes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.weights.layout import Layout


@dataclass(frozen=True)
class Reading:
    """What a configuration says.

    Attributes:
        model: the class of `models`, with its configuration.
        layout: of the checkpoint's tensors.
        axes: sizes of axes that the shapes do not give, for `convert`.
    """

    model: Part
    layout: Layout
    axes: Mapping[str, int] = field(default_factory=dict)


Reader = Callable[[Fields, Collection[str]], Reading]


@dataclass(frozen=True)
class Family:
    """Checkpoints that are read alike.

    Attributes:
        name: what users call it.
        model_types: what Hugging Face's configurations say in `model_type`.
        read: from the fields of a configuration, and the names of the tensors, to what they mean.
    """

    name: str
    model_types: tuple[str, ...]
    read: Reader


def model(name: str, config_name: str | None = None, **arguments: object) -> Part:
    """A model and its configuration, whose class is called `NameConfig`."""
    return Part(name, {"config": Part(config_name or f"{name}Config", arguments)})
