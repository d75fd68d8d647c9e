"""Mechanisms of each model type, as `show` prints them, against the modules of the models that are built."""

import json

from attention_bridge.catalogue import CATALOGUE
from attention_bridge.catalogue.part import build
from attention_bridge.pages.tables import class_name
from attention_bridge.pretrained.families import FAMILIES, read_config
from attention_bridge.pretrained.families.mechanisms import MECHANISMS, model_types
from parity_tests.helpers import families, heads

SAME = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "meta.llama": "llama",
    "gguf.llama": "llama",
    "gguf.qwen2": "qwen2",
    "gguf.qwen3": "qwen3",
}


def test_mechanisms_of_model_types_are_the_modules_of_their_models():
    names = {class_name(mechanism) for mechanism in CATALOGUE}
    found = {}
    whole = [case.config(**case.fields) for case in families.CASES.values()]
    parts = [heads.WRITTEN[name].config() for name in ("CLIPTextModel", "CLIPVisionModel", "Gemma3Model")]
    for made in (*whole, *parts):
        config = json.loads(made.to_json_string(use_diff=False))
        model = build(read_config(config).model, "torch_attention", {"device": "meta"})
        used = {type(module).__name__ for module in model.modules()} & names
        found.setdefault(config["model_type"], set()).update(used)
    assert {name: set(used) for name, used in MECHANISMS.items()} == found


def test_model_types_of_all_families_are_listed():
    assert MECHANISMS.keys() | SAME.keys() == FAMILIES.keys() - {"attention_bridge"}
    assert list(MECHANISMS) == sorted(MECHANISMS)
    assert model_types("QKNormAttention") == ["gemma3", "gemma3_text", "qwen3"]
    assert model_types("LuongAttention") == []
