"""Files of Keras on both sides of a conversion: what must hold before it, and what it writes so that Keras loads it."""

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
from attention_bridge.weights.layouts import LAYOUTS
from attention_bridge.weights.leaves import Spec

SUFFIX = ".weights.h5"


@dataclass(frozen=True)
class KerasSource:
    """What a source of Keras, or one that was converted from such a source, says of itself.

    Attributes:
        axes: the sizes of axes that the hub's shapes do not show.
        carried: tensors of other layers than attention, which are taken as they are.
        places: the paths of its attention layers.
        causal: names of its attention layers that the model calls with a causal mask.
        described: whether a description of all its attention layers was there, which tells the options that have no
            tensors.
    """

    axes: Mapping[str, int]
    carried: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    described: bool = True
    causal: tuple[str, ...] = ()

    @property
    def standing(self) -> dict[str, str]:
        """Where its layer stands that has no path: it was saved by itself."""
        return {"": keras_layers.ALONE} if any("." not in name for name in self.axes) else {}

    @property
    def metadata(self) -> dict[str, str]:
        """What is written beside the converted tensors, so that they can become those of Keras again."""
        return {keras_layers.AXES: json.dumps(self.axes)} if self.places else {}


def open_source(reader: Reader, layout: str) -> KerasSource:
    """Look at a source before it is converted.

    Args:
        reader: of its file.
        layout: of its tensors.

    Raises:
        CheckpointError: an attention layer is not whole, or the description beside the weights says something else.
    """
    theirs = LAYOUTS[layout]
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
    goal: Path, specs: Mapping[str, Spec], layout: str, places: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a file of Keras calls the tensors of `layout`, and where its attention layers stand.

    Args:
        goal: the file to write.
        specs: shape and dtype of each tensor.
        layout: the tensors'; one that is none of Keras' keeps its names.
        places: as in `keras_layers.placed`.

    Raises:
        CheckpointError: Keras could not load what would be written.
    """
    theirs = LAYOUTS[layout]
    if not keras_layers.is_keras(theirs):
        return {name: name for name in specs}, ()
    if not goal.name.endswith(SUFFIX):
        raise CheckpointError(
            f"{goal} cannot be written: its name must end in {SUFFIX}, for Keras reads others in its old format"
        )
    names, layers = keras_layers.placed(goal, specs, theirs, places)
    return names, tuple(layers)


def _config_beside(path: Path) -> dict[str, Any] | None:
    """The description beside the weights, where a model was saved as a directory."""
    file = find_config(path.parent) if path.name == "model.weights.h5" else None
    config = None if file is None else read_json(file)
    return config if config is not None and keras_config.is_keras(config) else None
