"""Keras files as source or target of a conversion: checks of the source, tensor names for the target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_bridge.checkpoints import Reader
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import find_config, read_json
from attention_bridge.pretrained.keras import config as keras_config
from attention_bridge.pretrained.keras import layers as keras_layers
from attention_bridge.weights.engine import find_layout
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import Spec

SUFFIX = ".weights.h5"


@dataclass(frozen=True)
class KerasSource:
    """Facts about a Keras source, or about a source that was converted from Keras.

    Attributes:
        axes: sizes of axes that shapes in the canonical layout do not give.
        carried: tensors outside attention layers, which are copied unchanged.
        places: paths of the attention layers.
        causal: names of attention layers that the model calls with a causal mask.
        described: whether a configuration of all attention layers was available, with the options that have no
            tensors.
    """

    axes: Mapping[str, int]
    carried: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    described: bool = True
    causal: tuple[str, ...] = ()

    @property
    def standing(self) -> dict[str, str]:
        """The default Keras path of a layer without a path, which was saved by itself."""
        return {"": keras_layers.ALONE} if any("." not in name for name in self.axes) else {}

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata for the converted file, which allows a conversion back to Keras."""
        return {keras_layers.AXES: json.dumps(self.axes)} if self.places else {}


def open_source(reader: Reader, layout: Layout | str) -> KerasSource:
    """Check a source before its conversion.

    Args:
        reader: reader of its file.
        layout: its layout, or the name.

    Raises:
        CheckpointError: an attention layer is incomplete, or the weights disagree with the model's configuration.
    """
    theirs = find_layout(layout)
    if not keras_layers.is_keras(theirs) or reader.format != "keras":
        return KerasSource(keras_layers.read_axes(reader.path, reader.metadata))
    heads = keras_layers.layers(reader.path, reader.specs, theirs)
    if not heads:
        raise CheckpointError(
            f"{reader.path} has no attention layer of Keras, whose projections end in _dense/vars/0"
        )
    config = reader.metadata.get("config") or _config_beside(reader.path)
    described = config is not None and keras_config.check(reader.path, config, heads)
    causal = () if config is None else keras_config.causal_calls(config)
    carried = tuple(name for name in reader.specs if theirs.carries(theirs.canonical(name)))
    places = tuple(map(keras_layers.shown, heads))
    return KerasSource(keras_layers.axes(heads), carried, places, described, causal)


def place(
    goal: Path, specs: Mapping[str, Spec], layout: Layout | str, places: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The names of converted tensors in a Keras file, and the paths of its attention layers.

    Args:
        goal: file to write.
        specs: shape and dtype of each tensor, by name.
        layout: the tensors' layout, or its name; names in other layouts than Keras' stay unchanged.
        places: path in the Keras model for each module path, as in `keras_layers.placed`.

    Raises:
        CheckpointError: Keras could not load the file.
    """
    theirs = find_layout(layout)
    if not keras_layers.is_keras(theirs):
        return {name: name for name in specs}, ()
    if not goal.name.endswith(SUFFIX):
        raise CheckpointError(
            f"{goal} cannot be written: its name must end in {SUFFIX}, because Keras reads others in its legacy format"
        )
    names, layers = keras_layers.placed(goal, specs, theirs, places)
    return names, tuple(layers)


def _config_beside(path: Path) -> dict[str, Any] | None:
    """The configuration beside the weights, if a model was saved as a directory; else None."""
    file = find_config(path.parent) if path.name == "model.weights.h5" else None
    config = None if file is None else read_json(file)
    return config if config is not None and keras_config.is_keras(config) else None
