"""Saving of the updates of a model as an adapter for PEFT."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints.atomic import replacing
from attention_bridge.errors import CheckpointError, ConversionError, InputError
from attention_bridge.pretrained.adapters.adapter import PREFIX, WEIGHTS, Adapter
from attention_bridge.pretrained.adapters.apart import mirror_of
from attention_bridge.pretrained.adapters.config import CONFIG, AdapterConfig
from attention_bridge.pretrained.adapters.input_axis import input_axis
from attention_bridge.weights import convert
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import Spec, to_numpy

_MERGE = "merge_lora(model), and save the merged model"


class Saved(NamedTuple):
    """The factors of one weight of the base.

    Attributes:
        layers: the layers of the model that the weight consists of.
        a: first factor, (rank, in).
        b: second factor, (out, rank).
    """

    layers: tuple[Any, ...]
    a: np.ndarray
    b: np.ndarray


def save_adapter(
    model: Any,
    directory: str | os.PathLike[str],
    adapter: Adapter | Mapping[str, Any],
    layout: Layout,
    axes: Mapping[str, int] | None = None,
    *,
    prefix: str = "",
) -> None:
    """Write the updates of a model as PEFT does. Tensors that were not trained keep their bytes.

    Args:
        model: model with `LoRALinear` layers, from `apply_adapter` or `add_lora`.
        directory: directory to write to; created if it does not exist.
        adapter: the adapter that the model was made with: its names, order, dtypes and configuration are kept. For
            `add_lora`, a mapping with further fields of the configuration, such as `base_model_name_or_path`.
        layout: layout of the base's tensors.
        axes: sizes of axes that the shapes do not give, as for `convert`; None for none.
        prefix: for `add_lora`, the path of the layout's modules in the class of transformers, such as "transformer."
            for `GPT2LMHeadModel`.

    Raises:
        InputError: the model has no update, or updates that PEFT's format cannot hold for this layout.
        CheckpointError: a file cannot be written.
    """
    directory = Path(directory)
    saved = _saved(model, layout, axes)
    if isinstance(adapter, Adapter):
        fields, file, metadata = adapter.config.fields, adapter.path.name, adapter.metadata
        tensors = _as_before(model, adapter, saved, layout, axes)
    else:
        fields, file, metadata = _config(adapter, saved, layout, prefix), WEIGHTS[0], {"format": "pt"}
        tensors = {}
        for name, each in saved.items():
            tensors[f"{PREFIX}{prefix}{name}.lora_A.weight"] = each.a
            tensors[f"{PREFIX}{prefix}{name}.lora_B.weight"] = each.b
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made: {error.strerror}") from error
    specs = {name: Spec(array.shape, array.dtype) for name, array in tensors.items()}
    checkpoints.save(directory / file, tensors.items(), specs, metadata)
    with replacing(directory / CONFIG) as temporary:
        temporary.write_text(json.dumps(fields, indent=2, sort_keys=True))


def _saved(model: Any, layout: Layout, axes: Mapping[str, int] | None) -> dict[str, Saved]:
    """The factors of each weight of the base, by the path of its module in the layout."""
    lora = import_module(f"{mirror_of(model)}.lora")
    layers = dict(lora.lora_layers(model))
    if not layers:
        raise InputError(f"this {type(model).__name__} has no LoRALinear layers whose updates could be saved")
    rows = {f"{path}.weight": _array(layer.lora_B) for path, layer in layers.items()}
    try:
        found, report = convert(rows, "torch_attention", layout, axes)
    except ConversionError as error:
        fault = error.faults[0]
        raise InputError(
            f"{layout.name} has one weight for several layers, {fault.name} {fault.expected}, and they must all have "
            f"an update of the same rank; adapt them all, or {_MERGE}"
        ) from error
    origins = {match.target: match.given for match in report.matched}
    saved = {}
    for name, array in found.items():
        members = tuple(layers[origin.removesuffix(".weight")] for origin in origins[name])
        factors = [_array(layer.lora_A) for layer in members]
        if any(other.tobytes() != factors[0].tobytes() for other in factors[1:]):
            raise InputError(
                f"{layout.name} has one weight for {', '.join(origins[name])}, whose lora_A must be the same, but they "
                f"differ: {_MERGE}"
            )
        if len({layer.lora_scale for layer in members}) > 1:
            raise InputError(f"{', '.join(origins[name])} must have one scale, but they differ: {_MERGE}")
        b = array if input_axis(layout, name) else array.T
        saved[name.removesuffix(".weight")] = Saved(members, factors[0], np.ascontiguousarray(b))
    return saved


def _as_before(
    model: Any, adapter: Adapter, saved: dict[str, Saved], layout: Layout, axes: Mapping[str, int] | None
) -> dict[str, np.ndarray]:
    """The adapter's tensors with the values of the model."""
    tensors = dict(adapter.tensors)
    left = dict(saved)
    for update in adapter.updates.values():
        found = left.pop(layout.canonical(update.weight).removesuffix(".weight"), None)
        if found is None:
            raise InputError(f"the adapter has an update of {update.module}, but the model has none")
        if found.layers[0].lora_scale != update.scale:
            raise InputError(
                f"the update of {update.module} must have the adapter's scale {update.scale}, got "
                f"{found.layers[0].lora_scale}"
            )
        for part, array in (("a", found.a), ("b", found.b)):
            tensors[update.names[part]] = _kept(tensors[update.names[part]], array)
    if left:
        raise InputError(f"the model has an update of {next(iter(left))}, but the adapter has none")
    if adapter.replaced:
        weights = _weights(model, layout, axes)
        for plain, name in adapter.replaced.items():
            array = weights.get(layout.canonical(plain))
            if array is not None:
                tensors[name] = _kept(tensors[name], array)
    return tensors


def _kept(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """The tensor as it was if its values are the same; else the new one, in the old dtype if that is exact."""
    if before.shape == now.shape and before.astype(now.dtype).tobytes() == now.tobytes():
        return before
    narrow = now.astype(before.dtype)
    return narrow if narrow.astype(now.dtype).tobytes() == now.tobytes() else now


def _weights(model: Any, layout: Layout, axes: Mapping[str, int] | None) -> dict[str, np.ndarray]:
    """The model's other weights, by their names in the layout."""
    container = open_container(model)
    leaves = {name: to_numpy(name, leaf) for name, leaf in container.leaves.items()}
    plain, _ = convert(leaves, container.layout, "torch_attention")
    kept = {
        name.replace(".base.", "."): array
        for name, array in plain.items()
        if name.rpartition(".")[2] not in ("lora_A", "lora_B")
    }
    return convert(kept, "torch_attention", layout, axes)[0]


def _config(given: Mapping[str, Any], saved: dict[str, Saved], layout: Layout, prefix: str) -> dict[str, Any]:
    """The configuration of new updates."""
    layers = {prefix + name: each.layers[0] for name, each in saved.items()}
    first = next(iter(layers.values()))
    if any(layer.use_rslora != first.use_rslora for layer in layers.values()):
        raise InputError(f"all updates must have use_rslora={first.use_rslora}, but some differ: {_MERGE}")
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "bias": "none",
        "task_type": None,
        "inference_mode": True,
        **given,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "use_rslora": first.use_rslora,
        "lora_dropout": first.dropout.rate,
        "target_modules": sorted(layers),
        "fan_in_fan_out": any(input_axis(layout, f"{name}.weight") == 0 for name in saved),
        "rank_pattern": _others(first.rank, {name: layer.rank for name, layer in layers.items()}),
        "alpha_pattern": _others(first.alpha, {name: layer.alpha for name, layer in layers.items()}),
    }
    AdapterConfig(fields)
    return fields


def _others(common: float, each: Mapping[str, float]) -> dict[str, float]:
    """The values that differ from the common one, by pattern."""
    return {f"^{name.replace('.', '[.]')}": value for name, value in each.items() if value != common}


def _array(parameter: Any) -> np.ndarray:
    return to_numpy("parameter", parameter.get_value() if hasattr(parameter, "get_value") else parameter)
