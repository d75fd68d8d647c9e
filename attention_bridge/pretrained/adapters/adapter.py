"""Reading of LoRA adapters: PEFT's `adapter_config.json` with `adapter_model.safetensors` or `.bin`.

| tensor                                              | part of the adapter                                        |
|-----------------------------------------------------|------------------------------------------------------------|
| `{module}.lora_A.weight`, `{module}.lora_B.weight`  | factors of a linear layer's update, (r, in) and (out, r)   |
| `{module}.lora_embedding_A`, `..._B`                | factors of an embedding's update, (r, vocab), (embed, r)   |
| `{module}.lora_magnitude_vector`                    | magnitudes of the outputs (DoRA)                           |
| `{module}.original_module.{name}`                   | none: a tensor that `modules_to_save` replaces             |
| any other                                           | replaces the base's tensor of that name                    |
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.adapters.config import AdapterConfig, read_adapter_config

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
# Ends of names, with the part of the update.
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


class Update(NamedTuple):
    """The low-rank update of a module of the base.

    Attributes:
        module: path of the module, as in transformers.
        names: names of the tensors in the adapter's file, by part: a, b and magnitude.
        a: first factor, (rank, in).
        b: second factor, (out, rank).
        magnitude: magnitudes of the outputs, (out,); None without DoRA.
        scale: factor of the product.
        is_embedding: whether the module is an embedding, whose weight is (in, out).
    """

    module: str
    names: dict[str, str]
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None
    scale: float
    is_embedding: bool

    @property
    def weight(self) -> str:
        """The name of the weight in the base."""
        return f"{self.module}.weight"


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Attributes:
        path: file of the tensors.
        config: the configuration.
        tensors: arrays by their names in the file, in its order.
        updates: low-rank updates, by path of the module.
        replaced: names of the tensors that replace tensors of the base, by the base's names; copies of one tensor
            have several.
        metadata: text in the file of the tensors.
    """

    path: Path
    config: AdapterConfig
    tensors: dict[str, np.ndarray]
    updates: dict[str, Update]
    replaced: dict[str, tuple[str, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_adapter(directory: str | os.PathLike[str]) -> Adapter:
    """Read an adapter.

    Args:
        directory: directory with `adapter_config.json` and the tensors.

    Raises:
        CheckpointError: a file is missing or damaged, the method is not supported, or a tensor contradicts the
            configuration.
    """
    directory = Path(directory)
    config = read_adapter_config(directory)
    path = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{directory} has neither {' nor '.join(WEIGHTS)}, one of which holds the adapter"
        )
    with checkpoints.open(path) as reader:
        tensors = {name: np.array(array) for name, array in reader.items()}
        metadata = {key: text for key, text in reader.metadata.items() if isinstance(text, str)}
    parts: dict[str, dict[str, str]] = {}
    replaced: dict[str, tuple[str, ...]] = {}
    for name in tensors:
        plain = name.removeprefix(PREFIX)
        end = next((end for end in PARTS if plain.endswith(end)), None)
        if end is not None:
            parts.setdefault(plain.removesuffix(end), {})[PARTS[end]] = name
        elif ".lora_" in plain:
            raise CheckpointError(f"{path} has a tensor {name}, which is no part of LoRA as PEFT saves it")
        elif ".original_module." not in plain:
            plain = plain.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            same = replaced.get(plain, ())
            if any(tensors[other].tobytes() != tensors[name].tobytes() for other in same):
                raise CheckpointError(f"{path} has two values for {plain}: {same[0]} and {name} differ")
            replaced[plain] = (*same, name)
    updates = {module: _update(module, names, tensors, config, path) for module, names in parts.items()}
    return Adapter(path, config, tensors, updates, replaced, metadata)


def _update(
    module: str, names: dict[str, str], tensors: dict[str, np.ndarray], config: AdapterConfig, path: Path
) -> Update:
    """The update of a module, checked against the configuration."""
    for fault in _faults(module, names, tensors, config):
        raise CheckpointError(f"{path} does not fit its configuration: {fault}")
    a, b = tensors[names["a"]], tensors[names["b"]]
    magnitude = tensors[names["magnitude"]].reshape(-1) if config.use_dora else None
    is_embedding = "lora_embedding" in names["a"]
    return Update(module, names, a, b, magnitude, config.scale(module), is_embedding)


def _faults(
    module: str, names: dict[str, str], tensors: dict[str, np.ndarray], config: AdapterConfig
) -> Iterator[str]:
    """Sentences about an update that contradicts the configuration."""
    for part in ("a", "b", *(["magnitude"] if config.use_dora else [])):
        if part not in names:
            label = {"a": "lora_A", "b": "lora_B", "magnitude": "lora_magnitude_vector"}[part]
            yield f"{module} must have {label} beside {next(iter(names.values()))}"
            return
    if "magnitude" in names and not config.use_dora:
        yield f"{names['magnitude']} is a magnitude of DoRA, but use_dora is false"
    if not config.targets(module):
        yield f"{module} has an update, but target_modules and the fields beside it do not include it"
    a, b = tensors[names["a"]], tensors[names["b"]]
    rank = config.rank(module)
    if a.ndim != 2 or b.ndim != 2:
        yield f"{module} must be a linear layer or an embedding, but its factors have shapes {a.shape} and {b.shape}"
    elif a.shape[0] != rank or b.shape[1] != rank:
        yield f"{module} has rank {rank}, but its factors have shapes {a.shape} and {b.shape}"
    elif "magnitude" in names and tensors[names["magnitude"]].size != len(b):
        yield f"{module} has {len(b)} outputs, but {tensors[names['magnitude']].size} magnitudes"
