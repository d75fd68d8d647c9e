"""Mechanisms of tiny models of every family: `python -m parity_tests.helpers.model_mechanisms` prints the stored table.

attention_bridge/data/model_mechanisms.json holds it.
"""

import json
from typing import Any

from attention_bridge.catalogue import CATALOGUE
from attention_bridge.catalogue.part import build
from attention_bridge.pages.tables import class_name
from attention_bridge.pretrained.families import read_config
from parity_tests.helpers import families, heads
from parity_tests.helpers.family_cases import added

PARTS = ("CLIPTextModel", "CLIPVisionModel", "Gemma3Model")


def configurations() -> list[dict[str, Any]]:
    """The configurations of tiny models of every model type."""
    parts = (*PARTS, *(name for each in added() for name in getattr(each, "PARTS", ())))
    whole = [case.config(**case.fields) for case in families.CASES.values()]
    every = (*whole, *(heads.WRITTEN[name].config() for name in parts))
    return [json.loads(made.to_json_string(use_diff=False)) for made in every]


def table() -> dict[str, list[str]]:
    """The classes of the catalogue among the modules of the models of each model type."""
    names = {class_name(mechanism) for mechanism in CATALOGUE}
    found: dict[str, set[str]] = {}
    for config in configurations():
        model = build(read_config(config).model, "torch_attention", {"device": "meta"})
        used = {type(module).__name__ for module in model.modules()} & names
        found.setdefault(config["model_type"], set()).update(used)
    return {name: sorted(found[name]) for name in sorted(found)}


if __name__ == "__main__":
    print(json.dumps(table(), indent=1))
