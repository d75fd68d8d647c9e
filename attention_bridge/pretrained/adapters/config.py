"""The configuration of a LoRA adapter, PEFT's `adapter_config.json`.

| field                                       | effect                                                             |
|---------------------------------------------|--------------------------------------------------------------------|
| `r`, `rank_pattern`                         | rank, and ranks of single modules by regular expressions           |
| `lora_alpha`, `alpha_pattern`, `use_rslora` | scale of the update: alpha / rank, or alpha / √rank                |
| `target_modules`, `exclude_modules`, `layers_to_transform`, `layers_pattern` | modules that have an update       |
| `modules_to_save`, `bias`                   | tensors of the base that the adapter replaces                      |
| `use_dora`                                  | a magnitude for each output (Liu et al. 2024)                      |
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.families.shown import shown

CONFIG = "adapter_config.json"

# Fields that affect training, or only describe the adapter.
HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
    "inference_mode", "loftq_config", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type", "velora_config",
)  # fmt: skip
READ = (
    "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "modules_to_save", "r", "rank_pattern", "target_modules", "use_dora", "use_rslora",
)  # fmt: skip
# Fields of other methods, which must be absent or false, with the reason.
REFUSED = {
    "alora_invocation_tokens": "the update would apply only behind these tokens",
    "arrow_config": "several adapters would be mixed by a router",
    "corda_config": "the base's weights would be changed too",
    "kasa_config": "the base's weights would be truncated",
    "layer_replication": "layers of the base would be repeated",
    "lora_bias": "the update would have a bias",
    "lora_ga_config": "the base's weights would be changed too",
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


@dataclass(frozen=True)
class AdapterConfig:
    """The content of an adapter's configuration, checked.

    Attributes:
        fields: fields by name, as in the file.
        source: file, or its name in messages.
    """

    fields: Mapping[str, Any]
    source: object = CONFIG

    def __post_init__(self) -> None:
        _check(self.fields, self.source)

    def rank(self, module: str) -> int:
        """The rank of a module's update."""
        return int(self._of("rank_pattern", module, self.fields.get("r", 8)))

    def alpha(self, module: str) -> float:
        """The numerator of the scale of a module's update."""
        return self._of("alpha_pattern", module, self.fields.get("lora_alpha", 8))

    def scale(self, module: str) -> float:
        """The scale of a module's update."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.fields.get("use_rslora") else rank)

    def targets(self, module: str) -> bool:
        """Whether the module has an update, by PEFT's rules."""
        wanted, without = self.fields.get("target_modules"), self.fields.get("exclude_modules")
        if without and _matches(without, module):
            return False
        if wanted is None or wanted == "all-linear":
            return True
        if isinstance(wanted, str) or module in wanted:
            return _matches(wanted, module)
        return _matches(wanted, module) and self._has_layer(module)

    def saves(self, tensor: str) -> bool:
        """Whether a tensor is part of a module that the adapter replaces as a whole."""
        names = self.fields.get("modules_to_save") or ()
        return any(f".{name}." in f".{tensor}" for name in names)

    @property
    def use_dora(self) -> bool:
        """Whether each output has a magnitude."""
        return bool(self.fields.get("use_dora"))

    def _of(self, pattern: str, module: str, default: Any) -> Any:
        for key, value in (self.fields.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default

    def _has_layer(self, module: str) -> bool:
        layers, patterns = self.fields.get("layers_to_transform"), self.fields.get("layers_pattern")
        if layers is None or layers == []:
            return True
        names = [patterns] if isinstance(patterns, str) and patterns else patterns or [r"[^.]*"]
        for name in names:
            if found := re.match(rf"(?:^|.*?\.){name}\.(\d+)\.", module):
                return int(found[1]) in ([layers] if isinstance(layers, int) else layers)
        return False


def read_adapter_config(directory: str | os.PathLike[str]) -> AdapterConfig:
    """Read the configuration of an adapter.

    Args:
        directory: directory with `adapter_config.json`.

    Raises:
        CheckpointError: there is none, or it describes anything but LoRA on linear layers and embeddings.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{directory} is no adapter: it has no {CONFIG}")
    return AdapterConfig(read_json(path), path)


def is_adapter(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds an adapter, which has no weights of a base model."""
    return (Path(directory) / CONFIG).is_file()


def base_of(directory: str | os.PathLike[str]) -> str:
    """The base model that an adapter names: a directory, or a name on the Hugging Face Hub, also with a revision.

    Args:
        directory: directory with `adapter_config.json`.

    Raises:
        CheckpointError: there is no such file, or it names no base.
    """
    config = read_adapter_config(directory)
    base, revision = config.fields.get("base_model_name_or_path"), config.fields.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{config.source} names no base model in base_model_name_or_path: load the base model, "
            "with this directory as adapter"
        )
    return f"{base}@{revision}" if isinstance(revision, str) and not Path(base).exists() else base


def _matches(names: Any, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _check(fields: Mapping[str, Any], source: object) -> None:
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
                refuse(name, "regular expressions with positive numbers")
    if not _is_size(fields.get("r", 8), True):
        refuse("r", "a positive integer")
    if not _is_size(fields.get("lora_alpha", 8), False):
        refuse("lora_alpha", "a positive number")
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
    return 0 < value < math.inf


def _is_pattern(text: object) -> bool:
    try:
        re.compile(str(text))
    except re.error:
        return False
    return True
