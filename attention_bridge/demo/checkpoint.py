"""The demo's encoder: a BERT checkpoint from the Hugging Face Hub that sentence-transformers also reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.load import Pretrained, read_pretrained

# Modules of sentence-transformers that are equivalent to the normalised mean over the tokens.
SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceEncoder:
    """Sentence encoder read from a checkpoint.

    Attributes:
        pretrained: the weights and the description of the model.
        sentence_length: maximum length in tokens set by sentence-transformers; None if the directory does not set it.
    """

    pretrained: Pretrained
    sentence_length: int | None

    @property
    def directory(self) -> Path:
        """Directory of the checkpoint."""
        return self.pretrained.directory

    @property
    def config(self) -> Mapping[str, Any]:
        """Keyword arguments of `EncoderConfig`."""
        arguments: Mapping[str, Any] = self.pretrained.reading.model.arguments["config"].arguments
        return arguments

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of a text; longer texts are truncated."""
        longest: int = self.config["max_len"]
        return min(longest, self.sentence_length or longest)


def read_sentence_encoder(directory: Path) -> SentenceEncoder:
    """Read a BERT-style encoder; its weights are cast to float32, which holds 16-bit values exactly.

    Raises:
        CheckpointError: a file is missing or damaged, the model is not a BERT that `Encoder` supports, or the pooling
            is not the mean over tokens.
    """
    source = directory / "config.json"
    model_type = read_json(source).get("model_type")
    if model_type != "bert":
        raise CheckpointError(f"{source} must describe a BERT encoder, model_type 'bert', got {model_type!r}")
    pretrained = read_pretrained(directory, dtype="float32")
    check_mean_pooling(directory)
    return SentenceEncoder(pretrained, _sentence_length(directory))


def check_mean_pooling(directory: Path) -> None:
    """Raise unless the directory describes mean pooling over tokens, or no pooling at all.

    Raises:
        CheckpointError: the directory describes another pooling, or further modules.
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
    """The pooling modes, from `pooling_mode` or from the older format with one flag per mode."""
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
