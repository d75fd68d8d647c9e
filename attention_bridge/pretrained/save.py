"""Saving of a model of either mirror as a directory for `load_pretrained` or transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attention_bridge import checkpoints
from attention_bridge.catalogue.part import Part, build
from attention_bridge.checkpoints.atomic import replacing
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.adapters import check_plain
from attention_bridge.pretrained.families import Reading, read_config
from attention_bridge.pretrained.families.describe import as_part
from attention_bridge.pretrained.families.own import own_config
from attention_bridge.pretrained.load import PACKAGES
from attention_bridge.pretrained.source import read_config_file
from attention_bridge.weights import convert
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import to_numpy


def save_pretrained(
    model: Any,
    directory: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> None:
    """Write a model's weights and configuration, for `load_pretrained` in either framework.

    Args:
        model: model of `torch_attention.models` or `jax_attention.models`.
        directory: directory to write to; created if it does not exist.
        config: Hugging Face configuration of the model, or a file or directory with it. The weights are then written
            in its layout, so that transformers can read them. None writes the model's own configuration.

    Raises:
        InputError: the configuration describes another model, `load_pretrained` could not read the model's own, or
            the model has LoRA updates that are not merged.
        CheckpointError: a file cannot be read or written.
    """
    check_plain(model)
    directory = Path(directory)
    container = open_container(model)
    tensors = {name: to_numpy(name, leaf) for name, leaf in container.leaves.items()}
    weights, _ = convert(tensors, container.layout, "torch_attention")
    given = own_config(model) if config is None else _config(config)
    names = {"classifier.weight"} if getattr(model, "head", None) is not None else set()
    if getattr(model, "pooler", None) is not None:
        names |= {"pooler.dense.weight", "pooler.weight"}
    reading = read_config(given, names) if config is not None else _own_reading(model, given, names)
    package = PACKAGES["torch" if type(model).__module__.startswith("torch") else "jax"]
    described = _with_special_tokens_of(model, build(_configuration(reading), package, {}))
    if described != model.config or reading.model.name != type(model).__name__:
        raise InputError(
            f"config must describe this {type(model).__name__}, but {_difference(described, model.config)}"
        )
    converted, _ = convert(weights, "torch_attention", reading.layout, reading.axes)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made: {error.strerror}") from error
    checkpoints.write(directory / checkpoints.SINGLE, converted, {"format": "pt"})
    with replacing(directory / "config.json") as temporary:
        temporary.write_text(json.dumps(dict(given), indent=2) + "\n")


def _own_reading(model: Any, given: Mapping[str, Any], names: Collection[str]) -> Reading:
    """The reading of the model's own configuration, as by `load_pretrained`."""
    name = type(model).__name__
    try:
        return read_config(given, names, f"this {name}")
    except CheckpointError as error:
        raise InputError(
            f"this {name} cannot be saved, because load_pretrained would refuse it: {error}"
        ) from error


def _config(config: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    return read_config_file(config)[1]


def _configuration(reading: Reading) -> Part:
    part = reading.model.arguments["config"]
    assert isinstance(part, Part)
    return part


def _with_special_tokens_of(model: Any, described: Any) -> Any:
    """A configuration with the special tokens of the model: they do not distinguish models."""
    special = getattr(model.config, "special_tokens", None)
    if special is None or not hasattr(described, "special_tokens"):
        return described
    return replace(described, special_tokens=special)


def _difference(described: Any, actual: Any) -> str:
    """A sentence about the first field in which two configurations differ."""
    if type(described) is not type(actual):
        return f"describes a {type(described).__name__}, not a {type(actual).__name__}"
    theirs, ours = dict(_leaves(as_part(described))), dict(_leaves(as_part(actual)))
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            return f"has {name}={theirs.get(name)}, not {ours.get(name)}"
    return "describes another class"


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration and of nested ones, by path."""
    if isinstance(value, Part):
        named = {"name": value.name, **value.arguments}
    elif isinstance(value, tuple) and any(isinstance(each, Part) for each in value):
        named = {str(n): each for n, each in enumerate(value)}
    else:
        yield ".".join(path), value
        return
    for name, each in named.items():
        yield from _leaves(each, (*path, name))
