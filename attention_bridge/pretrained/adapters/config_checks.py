"""Checks of an adapter's configuration: methods that are not supported are refused by name, and types are checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.shown import shown

# Fields that affect training, or only describe the adapter.
HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
    "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "merge_weights", "peft_type",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type", "velora_config",
)  # fmt: skip
READ = (
    "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "modules_to_save", "r", "rank_pattern", "target_modules", "use_dora", "use_rslora",
)  # fmt: skip
# Fields of other methods, which must be absent or false, with the reason.
REFUSED = {
    "alora_invocation_tokens": "the update would apply only behind these tokens",
    "arrow_config": "several adapters would be mixed by a router",
    "kasa_config": "the base's weights would be truncated",
    "layer_replication": "layers of the base would be repeated",
    "lora_bias": "the update would have a bias",
    "megatron_config": "the layers would be Megatron's",
    "monteclora_config": "the update would be sampled",
    "target_parameters": "parameters outside linear layers would have an update",
    "trainable_token_indices": "single rows of the embedding would be replaced",
    "use_bdlora": "the factors would be block-diagonal",
    "use_qalora": "the update's input would be pooled",
}
# First weights of an update that are subtracted from the base, so that it fits no other base.
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
PATTERNS = ("rank_pattern", "alpha_pattern")


def check(fields: Mapping[str, Any], source: object) -> None:
    """Check the fields of a configuration.

    Args:
        fields: fields by name.
        source: name of the configuration in messages.

    Raises:
        CheckpointError: a field has a value that is not supported, or of a wrong type, or is unknown and not empty.
    """
    if (kind := fields.get("peft_type")) != "LORA":
        raise CheckpointError(
            f"{source} must have peft_type LORA, the only method supported, got {shown(kind)}"
        )
    for name, value in fields.items():
        if name in REFUSED and value:
            raise CheckpointError(
                f"{source} has {name}={shown(value)}, which is not supported: {REFUSED[name]}; "
                "merge it with peft, and load the merged model"
            )
        if name not in (*HARMLESS, *READ, *REFUSED) and value:
            raise CheckpointError(
                f"{source} has {name}={shown(value)}, a field that is not known and may change the outputs; "
                "remove it if it does not"
            )
    first = fields.get("init_lora_weights", True)
    if isinstance(first, str) and first.startswith(CHANGES_THE_BASE):
        raise CheckpointError(
            f"{source} has init_lora_weights={shown(first)}, which changes the base's weights: save it from peft with "
            "path_initial_model_for_weight_conversion, which makes it plain LoRA"
        )
    _check_types(fields, source)


def _check_types(fields: Mapping[str, Any], source: object) -> None:
    def refuse(name: str, expected: str) -> None:
        raise CheckpointError(f"{source} must have {expected} as {name}, got {shown(fields.get(name))}")

    for name in PATTERNS:
        given = fields.get(name) or {}
        if not isinstance(given, Mapping):
            refuse(name, "an object")
        for key, value in given.items():
            if not _is_pattern(key) or not _is_size(value, name == "rank_pattern"):
                refuse(name, f"regular expressions with {'ranks' if name == 'rank_pattern' else 'numbers'}")
    if not _is_size(fields.get("r", 8), True):
        refuse("r", "a positive integer")
    if not _is_size(fields.get("lora_alpha", 8), False):
        refuse("lora_alpha", "a number")
    for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        given = fields.get(name)
        if isinstance(given, str) and name != "modules_to_save":
            if not _is_pattern(given):
                refuse(name, "a regular expression")
        elif given is not None and not (isinstance(given, list) and all(isinstance(x, str) for x in given)):
            refuse(name, "a list of names")
    layers = fields.get("layers_to_transform")
    if layers is not None and not all(
        type(n) is int for n in (layers if isinstance(layers, list) else [layers])
    ):
        refuse("layers_to_transform", "a list of layer numbers")
    if fields.get("bias", "none") not in ("none", "all", "lora_only"):
        refuse("bias", "none, all or lora_only")
    for name in ("use_rslora", "use_dora", "fan_in_fan_out"):
        if not isinstance(fields.get(name, False), bool | None):
            refuse(name, "true or false")


def _is_size(value: object, whole: bool) -> bool:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (whole and not isinstance(value, int))
    ):
        return False
    return value > 0 if whole else math.isfinite(value)


def _is_pattern(text: object) -> bool:
    try:
        re.compile(str(text))
    except re.error:
        return False
    return True
