"""Mechanisms of the catalogue that the models of each `model_type` compute with.

The table is made from the modules of tiny models, and a test compares it with them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files


@cache
def mechanisms() -> dict[str, list[str]]:
    """The classes of the catalogue that each model type computes with."""
    found: dict[str, list[str]] = json.loads(
        files("attention_bridge").joinpath("data", "model_mechanisms.json").read_text()
    )
    return found


def model_types(mechanism: str) -> list[str]:
    """The model types that compute with a class of the catalogue, in alphabetical order."""
    return [name for name, used in mechanisms().items() if mechanism in used]
