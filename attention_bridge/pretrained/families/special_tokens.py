"""Special tokens of a configuration: end, padding and start tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.declarations import configurations

# Fields of `SpecialTokens` and of Hugging Face's configurations.
FIELDS = {
    "eos": "eos_token_id",
    "pad": "pad_token_id",
    "bos": "bos_token_id",
    "decoder_start": "decoder_start_token_id",
}


def with_special_tokens(model: Part, given: Mapping[str, Any]) -> Part:
    """Add the special tokens of a Hugging Face configuration to a model, if its class stores them.

    Values that are not token ids of the vocabulary, such as -1, are ignored.
    """
    config = model.arguments["config"]
    if config.name == "TaskSpec":
        backbone = with_special_tokens(Part("", {"config": config.arguments["backbone"]}), given)
        task = {**config.arguments, "backbone": backbone.arguments["config"]}
        return replace(model, arguments={**model.arguments, "config": replace(config, arguments=task)})
    declared = configurations().get(config.name, {})
    if "special_tokens" not in declared or "special_tokens" in config.arguments:
        return model
    vocab = config.arguments["vocab_size"]
    found: dict[str, Any] = {}
    for name, field in FIELDS.items():
        value = given.get(field)
        several = value if isinstance(value, list) else [value]
        numbers = tuple(x for x in several if type(x) is int and 0 <= x < vocab)
        if numbers:
            found[name] = numbers if name == "eos" else numbers[0]
    if not found:
        return model
    special = {"special_tokens": Part("SpecialTokens", found)}
    return replace(
        model,
        arguments={**model.arguments, "config": replace(config, arguments={**config.arguments, **special})},
    )
