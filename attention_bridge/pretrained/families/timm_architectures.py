"""Arguments of timm's models: the arguments of an architecture, changed by a `config.json`.

The table of the architectures is written by `parity_tests/fixtures/make_timm_architectures.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.shown import shown


def arguments_of(fields: Fields) -> Fields:
    """The arguments with which timm builds the model of a `config.json`; `class` is the name of its class.

    `model_args` come first, then the architecture's own arguments, except those that timm takes from `pretrained_cfg`.

    Args:
        fields: content of `config.json`.

    Raises:
        CheckpointError: the architecture is unknown, or an argument is not of the right kind.
    """
    name, table = fields.raw("architecture"), _table()
    if not isinstance(name, str) or name.partition(".")[0] not in table:
        alike = ", ".join(get_close_matches(name.partition(".")[0], table)) if isinstance(name, str) else ""
        raise CheckpointError(
            f"{fields.source} must have an architecture of the {len(table)} Vision Transformers of timm"
            f"{alike and f', such as {alike}'}, got {shown(name)}"
        )
    given = fields.part("model_args", {}).given
    changes = _of_files(fields)
    source = f"the arguments of {name} in {fields.source}"
    return Fields({**table[name.partition(".")[0]], **changes, **given}, source)


def _of_files(fields: Fields) -> dict[str, Any]:
    """The arguments that timm takes from the description of the file: channels, and a fixed size of the images."""
    described = fields.part("pretrained_cfg", {})
    size = described.raw("input_size", default=fields.raw("input_size"))
    fixed = described.raw("fixed_input_size", default=fields.raw("fixed_input_size"))
    if size is None:
        return {}
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise CheckpointError(
            f"{fields.source} must have input_size as channels, height and width, got {shown(size)}"
        )
    return {"in_chans": size[0]} | ({"img_size": list(size[1:])} if fixed is True else {})


@cache
def _table() -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = json.loads(
        files("attention_bridge").joinpath("data", "timm_architectures.json").read_text()
    )
    return found
