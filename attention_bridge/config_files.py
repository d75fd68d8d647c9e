"""Configuration files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_bridge.checkpoints.unique import unique
from attention_bridge.errors import CheckpointError

CONFIGS = ("config.json", "params.json")  # Hugging Face's, and Meta's


def find_config(directory: Path) -> Path | None:
    """The configuration of the model in a directory, if there is one."""
    return next((directory / name for name in CONFIGS if (directory / name).is_file()), None)


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds.

    Raises:
        CheckpointError: it cannot be read, is no JSON, or holds something else than a `kind`.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=unique)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be JSON, but is not: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} must hold a JSON {kind.__name__}, got {type(content).__name__}")
    return content
