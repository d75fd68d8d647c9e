"""The mirrors' own configurations: a model's dataclass as JSON, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from attention_bridge.catalogue.mechanism import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.families.family import Family, Reading
from attention_bridge.families.fields import Fields
from attention_bridge.families.shown import shown
from attention_bridge.layouts.torch_attention import TORCH_ATTENTION

MODEL_TYPE = "attention_bridge"


def own_config(model: Any) -> dict[str, Any]:
    """What `config.json` holds for a model of the mirrors."""
    return {"model_type": MODEL_TYPE, "model": type(model).__name__, "config": _as_json(model.config)}


def read_own(fields: Fields, names: Collection[str]) -> Reading:
    """A model that `save_pretrained` wrote without another's configuration."""
    name, config = fields.raw("model"), fields.raw("config")
    if not isinstance(name, str) or not isinstance(config, dict) or "class" not in config:
        raise CheckpointError(
            f"{fields.source} must have a model and its config, got {shown(name)} and {shown(config)}"
        )
    return Reading(Part(name, {"config": _as_part(config)}), TORCH_ATTENTION)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        named = {field.name: _as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **named}
    return list(value) if isinstance(value, tuple) else value


def _as_part(value: Any) -> Any:
    if isinstance(value, dict):
        arguments = {name: _as_part(below) for name, below in value.items() if name != "class"}
        return Part(str(value.get("class")), arguments)
    return tuple(value) if isinstance(value, list) else value


FAMILIES = (Family("torch_attention", (MODEL_TYPE,), read_own),)
