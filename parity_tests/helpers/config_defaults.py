"""Defaults of transformers' configurations: `python -m parity_tests.helpers.config_defaults` prints the stored table.

attention_bridge/data/config_defaults.json holds them, for fields that are absent from a `config.json`.
"""

import json
from dataclasses import MISSING, fields
from typing import Any

from transformers import AutoConfig, CLIPTextConfig, CLIPVisionConfig

from attention_bridge.pretrained.families import FAMILIES
from attention_bridge.pretrained.families.fields import GENERATION, HARMLESS

TOKENS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
# Model types that transformers does not know: files of Meta, timm and GGUF, this package's own, names of other models.
OTHERS = {"RefinedWeb": "falcon", "RefinedWebModel": "falcon", "kimi_k2": "deepseek_v3"}
WITHOUT = ("meta.llama", "timm.vit", "gguf.llama", "gguf.qwen2", "gguf.qwen3", "attention_bridge")


def defaults_of(kind: type) -> dict[str, Any]:
    """The defaults of a configuration class that may change a model, and its special tokens."""
    found = {
        each.name: list(each.default) if isinstance(each.default, tuple) else each.default
        for each in fields(kind)  # type: ignore[arg-type]
        if each.default is not MISSING and _is_plain(each.default)
        if each.name in TOKENS or each.name not in HARMLESS | GENERATION
        if not each.name.startswith(("_", "base_"))
    }
    theta = getattr(kind, "default_theta", None)
    if isinstance(theta, dict):
        found |= {"rope_theta": theta["global"], "rope_local_base_freq": theta["local"]}
    elif theta is not None and "rope_parameters" in {each.name for each in fields(kind)}:  # type: ignore[arg-type]
        found["rope_theta"] = theta
    return dict(sorted(found.items())) | _text(kind)


def _is_plain(default: Any) -> bool:
    """Whether a default is a value of JSON; a tuple must be of whole numbers."""
    if isinstance(default, tuple):
        return all(type(each) is int for each in default)
    return isinstance(default, bool | int | float | str | list)


def _text(kind: type) -> dict[str, Any]:
    """The text model of a multimodal configuration, unless it is the default one of its own class."""
    if "text_config" not in {each.name for each in fields(kind)}:  # type: ignore[arg-type]
        return {}
    text = kind().text_config
    given = json.loads(text.to_json_string(use_diff=False))
    if given == json.loads(type(text)().to_json_string(use_diff=False)):
        return {}
    kept = {name: x for name, x in given.items() if name not in HARMLESS | GENERATION}
    return {"text_config": {"model_type": text.model_type, **kept}}


def table() -> dict[str, dict[str, Any]]:
    """The defaults of every model type that a family reads, and of the two halves of CLIP."""
    found = {
        "clip_text_model": defaults_of(CLIPTextConfig),
        "clip_vision_model": defaults_of(CLIPVisionConfig),
    }
    for name in sorted(FAMILIES.keys() - {*WITHOUT}):
        found[name] = defaults_of(type(AutoConfig.for_model(OTHERS.get(name, name))))
    return found


if __name__ == "__main__":
    print(json.dumps(table(), indent=1))
