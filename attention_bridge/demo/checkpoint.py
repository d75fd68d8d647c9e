"""The demo's encoder: a BERT of the Hugging Face hub that sentence-transformers reads too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.load import Pretrained, read_pretrained

# Sentence-transformers modules that the mean over the tokens, at unit length, covers.
SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceEncoder:
    """A checkpoint that has been read.

    Attributes:
        pretrained: its weights, and which model computes it.
        sentence_length: how many tokens sentence-transformers lets it read, if the directory says so.
    """

    pretrained: Pretrained
    sentence_length: int | None

    @property
    def directory(self) -> Path:
        """Where it was read from."""
        return self.pretrained.directory

    @property
    def config(self) -> Mapping[str, Any]:
        """Keyword arguments of `EncoderConfig`."""
        arguments: Mapping[str, Any] = self.pretrained.reading.model.arguments["config"].arguments
        return arguments

    @property
    def max_tokens(self) -> int:
        """How many tokens of a text it reads."""
        longest: int = self.config["max_len"]
        return min(longest, self.sentence_length or longest)


def read_sentence_encoder(directory: Path) -> SentenceEncoder:
    """Read a BERT-style encoder; its weights become float32, which holds 16-bit numbers exactly.

    Raises:
        CheckpointError: a file is missing or damaged, the model is no BERT or not one that `Encoder` computes, or an
            embedding is not the mean over tokens.
    """
    source = directory / "config.json"
    model_type = read_json(source).get("model_type")
    if model_type != "bert":
        raise CheckpointError(f"{source} must describe a BERT encoder, model_type 'bert', got {model_type!r}")
    pretrained = read_pretrained(directory, dtype="float32")
    check_mean_pooling(directory)
    return SentenceEncoder(pretrained, _sentence_length(directory))


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
    path = directory / "sentence_bert_config.json"
    fields = read_json(path) if path.exists() else {}
    return None if fields.get("max_seq_length") is None else _size(fields, "max_seq_length", path)


def _size(fields: Mapping[str, Any], name: str, source: object) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{source} must have a positive whole number {name}, got {value!r}")
    return value
