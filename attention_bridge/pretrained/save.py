"""Saving of a model of either mirror as a directory for `load_pretrained` or transformers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attention_bridge.catalogue.part import Part, build
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.adapters import check_plain
from attention_bridge.pretrained.companions import config_text
from attention_bridge.pretrained.config_files import CONFIGS
from attention_bridge.pretrained.families import Reading, read_config
from attention_bridge.pretrained.families.describe import as_part
from attention_bridge.pretrained.families.readers.own import MODEL_TYPE, own_config
from attention_bridge.pretrained.filling import PACKAGES
from attention_bridge.pretrained.origin import Origin
from attention_bridge.pretrained.source import read_config_file
from attention_bridge.pretrained.writing import write_directory, written
from attention_bridge.weights.containers import Container, open_container
from attention_bridge.weights.leaves import spec


def save_pretrained(
    model: Any,
    directory: str | os.PathLike[str],
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    max_shard_bytes: int | None = None,
) -> None:
    """Write a model's weights and configuration, for `load_pretrained` in either framework.

    A model that `load_pretrained` made is written as it was read: the same names, dtypes, files and shards, with the
    tensors that the model does not have, the tokenizer and the other files beside the weights. Unchanged weights give
    the same bytes.

    Args:
        model: model of `torch_attention.models` or `jax_attention.models`.
        directory: directory to write to; created if it does not exist. A checkpoint in it is replaced.
        config: Hugging Face configuration of the model, or a file or directory with it. The weights are then written
            in its layout, so that transformers can read them. None writes the configuration that was read, or the
            model's own configuration if the model was not read from files.
        max_shard_bytes: largest size of the tensors in one safetensors file; None for the shards that were read, or
            for a single file.

    Raises:
        InputError: the configuration describes another model, `load_pretrained` could not read the model's own, or
            the model has LoRA updates that are not merged.
        CheckpointError: a file cannot be read or written.
    """
    model = unwrapped(model)
    check_plain(model)
    if max_shard_bytes is not None and (type(max_shard_bytes) is not int or max_shard_bytes < 1):
        raise InputError(
            f"max_shard_bytes must be a positive whole number, or None, got {max_shard_bytes!r:.60}"
        )
    directory = Path(directory)
    origin: Origin | None = getattr(model, "origin", None)
    leaves = open_container(model)
    given, text = _given(model, config, origin)
    reading = _reading(model, given, origin, leaves.leaves)
    _check_described(model, reading)
    same = origin if origin is not None and origin.reading.layout.name == reading.layout.name else None
    tensors = written(leaves, reading, same)
    if same is not None and not tensors.as_stored and (changed := with_dtype(given, leaves)) != dict(given):
        text = config_text(changed)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made: {error.strerror}") from error
    files = {CONFIGS[0] if same is None else same.config_name: text, **({} if same is None else same.files)}
    write_directory(directory, tensors, files, None if same is None else same.form, max_shard_bytes)


def with_dtype(fields: Mapping[str, Any], leaves: Container) -> dict[str, Any]:
    """The fields of a configuration with the dtype of the weights that are written, where it names one."""
    dtypes = {spec(name, leaf).dtype.name for name, leaf in leaves.leaves.items()}
    if len(dtypes) > 1:
        return dict(fields)
    return {**fields, **{name: next(iter(dtypes)) for name in ("dtype", "torch_dtype") if fields.get(name)}}


def unwrapped(model: Any) -> Any:
    """The model inside `torch.compile`, `DataParallel` or `DistributedDataParallel`."""
    while type(model).__module__.startswith("torch."):
        inner = getattr(model, "_orig_mod", None)
        inner = getattr(model, "module", None) if inner is None else inner
        if inner is None:
            return model
        model = inner
    return model


def _given(
    model: Any, config: Mapping[str, Any] | str | os.PathLike[str] | None, origin: Origin | None
) -> tuple[Mapping[str, Any], bytes]:
    """The fields of the configuration to write, and its text."""
    if config is None and origin is not None and origin.fields:
        return origin.fields, origin.config if origin.is_config(origin.fields) else config_text(origin.fields)
    fields: Mapping[str, Any] = own_config(model) if config is None else _config(config)
    return fields, origin.config if origin is not None and origin.is_config(fields) else config_text(fields)


def _reading(model: Any, given: Mapping[str, Any], origin: Origin | None, names: Collection[str]) -> Reading:
    """The reading of the configuration to write: the one of the model's origin, if it is the same configuration."""
    if origin is not None and dict(given) == dict(origin.fields):
        return origin.reading
    if given.get("model_type") == MODEL_TYPE:
        return _own_reading(model, given, names)
    return read_config(given, names)


def _check_described(model: Any, reading: Reading) -> None:
    """Raise InputError unless a reading describes the model."""
    package = PACKAGES["torch" if type(model).__module__.startswith("torch") else "jax"]
    described = _with_special_tokens_of(model, build(_configuration(reading), package, {}))
    if described != model.config or reading.model.name != type(model).__name__:
        raise InputError(
            f"config must describe this {type(model).__name__}, but {_difference(described, model.config)}"
        )


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
