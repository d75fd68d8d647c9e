"""Finding and reading of configuration files in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_bridge.checkpoints.duplicate_keys import unique
from attention_bridge.checkpoints.wrong_files import UNFINISHED, fault
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.shown import cut

CONFIGS = ("config.json", "params.json")  # Hugging Face's, and Meta's
LARGEST = 2**26  # bytes; usual configurations have a few thousand


def find_config(directory: Path) -> Path | None:
    """The path of the model's configuration in a directory, or None.

    It may be unreadable, such as a broken link or an unfinished download: `read_json` says so.
    """
    for name in CONFIGS:
        path = directory / name
        if path.exists() or path.is_symlink():
            return path
    unfinished = (directory / f"{name}{suffix}" for name in CONFIGS for suffix in UNFINISHED)
    return next((path for path in unfinished if path.is_file()), None)


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: expected type of the content.

    Raises:
        CheckpointError: the file cannot be read, is not JSON, or its content is not a `kind`.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)  # a device or a pipe has no known size
        if len(text) > LARGEST:
            raise CheckpointError(f"{path} must have at most {LARGEST} bytes, got more")
        if wrong := fault(path, text=True, content=text):
            raise CheckpointError(f"{path} {wrong}")
        content = json.loads(text, object_pairs_hook=unique, parse_constant=_no_number)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except CheckpointError:
        raise
    except RecursionError as error:
        raise CheckpointError(f"{path} must be JSON, but is nested too deep") from error
    except ValueError as error:
        raise CheckpointError(f"{path} must be JSON, but is not: {cut(str(error), 120)}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} must hold a JSON {kind.__name__}, got {type(content).__name__}")
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
