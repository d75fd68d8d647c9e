"""Types for model families: a reader of configurations and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import Head
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout


@dataclass(frozen=True)
class Reading:
    """The result of reading a configuration.

    Attributes:
        model: model class of the mirrors, with its configuration.
        layout: layout of the checkpoint's tensors.
        axes: sizes of axes that the shapes do not give, for `convert`.
    """

    model: Part
    layout: Layout
    axes: Mapping[str, int] = field(default_factory=dict)


Reader = Callable[[Fields, Tensors], Reading]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints with a common reader.

    Attributes:
        name: name of the family, as users type it.
        model_types: values of `model_type` in Hugging Face's configurations.
        read: function of the configuration's fields and the tensors that returns a `Reading`, without a task head.
        heads: task heads of its checkpoints, the most frequent first.
    """

    name: str
    model_types: tuple[str, ...]
    read: Reader
    heads: tuple[Head, ...] = ()


def model(name: str, config_name: str | None = None, **arguments: object) -> Part:
    """Describe a model by its class and configuration; the configuration class defaults to `NameConfig`."""
    return Part(name, {"config": Part(config_name or f"{name}Config", arguments)})
