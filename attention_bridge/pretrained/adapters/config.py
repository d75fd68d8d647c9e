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
from attention_bridge.pretrained.adapters.config_checks import check
from attention_bridge.pretrained.config_files import read_json

CONFIG = "adapter_config.json"
# Files of a whole model, which may have an adapter beside it.
WHOLE_MODELS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


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
        check(self.fields, self.source)

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
        names = tuple(self.fields.get("modules_to_save") or ())
        parts = tensor.split(".")
        modules = (".".join(parts[:n]) for n in range(1, len(parts)))
        return any(
            module.endswith(names) for module in modules
        )  # "norm" includes "input_layernorm", as in PEFT

    def trains(self, tensor: str) -> bool:
        """Whether a tensor that the adapter replaces is trained with it; others are saved because they were resized."""
        return self.saves(tensor) or (tensor.endswith(".bias") and self.fields.get("bias", "none") != "none")

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
    """Whether a directory holds an adapter without the weights of a base model."""
    directory = Path(directory)
    return (directory / CONFIG).is_file() and not any((directory / name).is_file() for name in WHOLE_MODELS)


def base_of(directory: str | os.PathLike[str]) -> str:
    """The base model that an adapter names: a directory, or a name on the Hugging Face Hub, also with a revision.

    Args:
        directory: directory with `adapter_config.json`.

    Raises:
        CheckpointError: there is no such file, or it names no base, or a local directory that does not exist.
    """
    config = read_adapter_config(directory)
    base, revision = config.fields.get("base_model_name_or_path"), config.fields.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{config.source} names no base model in base_model_name_or_path: load the base model, "
            "with this directory as adapter"
        )
    if base.startswith((".", "/", "~")) and not Path(base).exists():
        raise CheckpointError(
            f"{config.source} names the base model {base}, which does not exist here: load the base model, "
            "with this directory as adapter"
        )
    return f"{base}@{revision}" if isinstance(revision, str) and not Path(base).exists() else base


def _matches(names: Any, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)
