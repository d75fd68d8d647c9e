"""The demo's encoder: a Hugging Face directory in, the sizes and weights of our `Encoder` out.

Neither framework is needed. A field of `config.json` that changes the arithmetic and is not understood is
refused by its name; what is read here is meant to give the same numbers, or nothing.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/configuration_bert.py
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.config_files import read_json
from attention_bridge.errors import CheckpointError
from attention_bridge.families import read_config

LAYOUT = "hf.bert"

# Sentence-transformers modules that the mean over the tokens, at unit length, covers.
SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint that has been read.

    Attributes:
        directory: where it was read from.
        config: keyword arguments of `EncoderConfig`.
        tensors: the weights, named and laid out as `layouts.hf_bert` says.
        max_tokens: how many tokens of a text the model reads.
    """

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    max_tokens: int


def read_bert(directory: str | os.PathLike[str]) -> Pretrained:
    """Read `config.json` and the weights of a BERT-style encoder.

    16-bit weights become float32, which holds each of them exactly.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is not one that `Encoder` computes.
    """
    directory = Path(directory)
    config = encoder_config(read_json(directory / "config.json"), source=directory / "config.json")
    max_tokens = min(config["max_len"], _sentence_length(directory) or config["max_len"])
    tensors = {name: _widen(tensor) for name, tensor in checkpoints.read(directory).items()}
    config["pooler"] = any(name.endswith("pooler.dense.weight") for name in tensors)
    return Pretrained(directory, config, tensors, max_tokens)


def encoder_config(fields: Mapping[str, Any], source: object = "config.json") -> dict[str, Any]:
    """The keyword arguments of `EncoderConfig` for a Hugging Face BERT config.

    Rates of dropout are left behind: they belong to training.

    Args:
        fields: what `config.json` holds.
        source: how messages call it.

    Returns:
        Every argument but `pooler`, which only the weights tell, and `dropout`.

    Raises:
        CheckpointError: not a BERT, a size is absent or impossible, or a field is not understood.
    """
    model_type = fields.get("model_type")
    if model_type != "bert":
        raise CheckpointError(f"{source} must describe a BERT encoder, model_type 'bert', got {model_type!r}")
    arguments = read_config(fields, source=source).model.arguments["config"].arguments
    return {name: value for name, value in arguments.items() if name != "pooler"}


def check_mean_pooling(directory: Path) -> None:
    """Raise unless a sentence's embedding is the mean of its tokens, as far as the directory says.

    Raises:
        CheckpointError: it has another pooling, or modules beyond it.
    """
    path = directory / "modules.json"
    for module in read_json(path, list) if path.exists() else ():
        if not isinstance(module, dict):
            raise CheckpointError(f"{path} must list modules as JSON objects, got {module!r}")
        kind = str(module.get("type")).rpartition(".")[2]
        if kind not in SENTENCE_MODULES:
            raise CheckpointError(f"{path} must list only {', '.join(SENTENCE_MODULES)}, got {kind}")
        if kind == "Pooling":
            pooling = directory / str(module.get("path")) / "config.json"
            if (modes := _pooling_modes(read_json(pooling))) != ["mean"]:
                raise CheckpointError(f"{pooling} must pool by the mean over tokens, got {', '.join(modes)}")


def _pooling_modes(pooling: Mapping[str, Any]) -> list[str]:
    """As sentence-transformers writes them today, `pooling_mode`, or did: one flag for each mode."""
    if "pooling_mode" in pooling:
        given = pooling["pooling_mode"]
        return [str(mode) for mode in given] if isinstance(given, list) else [str(given)]
    flags = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    return [name.removeprefix("pooling_mode_").removesuffix("_tokens") for name in flags] or ["nothing"]


def _sentence_length(directory: Path) -> int | None:
    """How many tokens sentence-transformers lets the model read, if the directory says so."""
    path = directory / "sentence_bert_config.json"
    fields = read_json(path) if path.exists() else {}
    return None if fields.get("max_seq_length") is None else _size(fields, "max_seq_length", path)


def _size(fields: Mapping[str, Any], name: str, source: object) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{source} must have a positive whole number {name}, got {value!r}")
    return value


def _widen(tensor: np.ndarray) -> np.ndarray:
    """Float32 for a float of 16 bits; everything else as it is."""
    return tensor.astype(np.float32) if tensor.dtype.name in ("float16", "bfloat16") else tensor
