"""Defaults of the reference for fields that are absent from a configuration.

The table is read from the configuration classes of transformers, and a test compares it with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


def defaults_of(model_type: object) -> Mapping[str, Any]:
    """The defaults of the fields of a model type; empty for a type that transformers does not have."""
    return _table().get(model_type, {}) if isinstance(model_type, str) else {}


@cache
def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(
        files("attention_bridge").joinpath("data", "config_defaults.json").read_text()
    )
    return found
