"""The files beside a model's weights: its configuration, tokenizer, processors and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention_bridge.checkpoints.wrong_files import check_file
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.families.readers.own import MODEL_TYPE, as_json

FILES = (
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "*_config.json",
    "[0-9]_*/config.json",
    "added_tokens.json",
    "chat_template.json",
    "config_*.json",
    "merges.txt",
    "modules.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.*",
)
LARGEST = 2**26  # bytes; the largest tokenizers have some 35 MB


def files_beside(directory: Path) -> dict[str, bytes]:
    """The files beside the weights that belong to a model, by their path in the directory.

    Raises:
        CheckpointError: a file is an unfinished download, or another file than its name says.
    """
    found = sorted({path for pattern in FILES for path in directory.glob(pattern)})
    kept = [path for path in found if path.is_file() and path.stat().st_size <= LARGEST]
    for path in kept:
        check_file(path, text=path.suffix in (".json", ".txt", ".jinja"))
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in kept}


def config_text(fields: Mapping[str, Any]) -> bytes:
    """The text of a configuration file."""
    return (json.dumps(dict(fields), indent=2) + "\n").encode()


def config_for(reading: Reading, fields: Mapping[str, Any], layout: str) -> Mapping[str, Any] | None:
    """The fields of a configuration for the same model in another layout; None if no configuration describes it.

    Args:
        reading: the model and its layout.
        fields: its configuration in that layout.
        layout: name of the other layout.
    """
    if layout == reading.layout.name:
        return fields
    if layout in ("torch_attention", "jax_attention"):
        described = as_json(reading.model.arguments["config"])
        return {"model_type": MODEL_TYPE, "model": reading.model.name, "config": described}
    return None
