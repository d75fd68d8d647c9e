"""Saving of the updates of a model as an adapter for PEFT."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints.atomic import replacing
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.adapters.adapter import PREFIX, WEIGHTS, Adapter
from attention_bridge.pretrained.adapters.config import CONFIG
from attention_bridge.pretrained.adapters.factors import Factors, factors_of, new_config
from attention_bridge.pretrained.adapters.input_axis import is_dropped
from attention_bridge.weights import convert
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import Spec, to_numpy


def save_adapter(
    model: Any,
    directory: str | os.PathLike[str],
    adapter: Adapter | Mapping[str, Any] | None = None,
    layout: Layout | None = None,
    axes: Mapping[str, int] | None = None,
    *,
    prefix: str = "",
) -> None:
    """Write the updates of a model as PEFT does. Tensors that were not trained keep their bytes.

    Args:
        model: model with `LoRALinear` layers, from `apply_adapter` or `add_lora`.
        directory: directory to write to; created if it does not exist.
        adapter: the adapter that the model was made with: its names, order, dtypes and configuration are kept. For
            `add_lora`, a mapping with further fields of the configuration, such as `base_model_name_or_path`. None for
            the adapter that `load_pretrained(..., merge=False)` was given, or for no further fields.
        layout: layout of the base's tensors; None for the layout of the checkpoint that the model was loaded from.
        axes: sizes of axes that the shapes do not give, as for `convert`; None for the sizes of that checkpoint, or for
            none.
        prefix: for `add_lora`, the path of the layout's modules in the class of transformers, such as "transformer."
            for `GPT2LMHeadModel`.

    Raises:
        InputError: the model has no update, or updates that PEFT's format cannot hold for this layout.
        CheckpointError: a file cannot be written.
    """
    directory, origin = Path(directory), getattr(model, "origin", None)
    if layout is None:
        if origin is None:
            raise InputError("layout must be given for a model that load_pretrained did not make, got None")
        layout, axes = origin.reading.layout, origin.reading.axes if axes is None else axes
    if adapter is None:
        adapter = {} if origin is None or origin.adapter is None else origin.adapter
    saved = factors_of(model, layout, axes)
    if isinstance(adapter, Adapter):
        fields, file, metadata = adapter.config.fields, adapter.path.name, adapter.metadata
        tensors = _as_before(model, adapter, saved, layout, axes)
    else:
        fields, file, metadata = new_config(adapter, saved, layout, prefix), WEIGHTS[0], {"format": "pt"}
        tensors = {}
        for name, each in saved.items():
            for end, array in each.tensors.items():
                tensors[f"{PREFIX}{prefix}{name}.{end}"] = array
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made: {error.strerror}") from error
    specs = {name: Spec(array.shape, array.dtype) for name, array in tensors.items()}
    checkpoints.save(directory / file, tensors.items(), specs, metadata)
    with replacing(directory / CONFIG) as temporary:
        temporary.write_text(json.dumps(fields, indent=2, sort_keys=True))


def _as_before(
    model: Any, adapter: Adapter, saved: dict[str, Factors], layout: Layout, axes: Mapping[str, int] | None
) -> dict[str, np.ndarray]:
    """The adapter's tensors with the values of the model."""
    tensors = dict(adapter.tensors)
    left = dict(saved)
    for update in adapter.updates.values():
        found = left.pop(layout.canonical(update.weight).removesuffix(".weight"), None)
        if found is None and is_dropped(update.weight, layout):
            continue
        if found is None:
            raise InputError(f"the adapter has an update of {update.module}, but the model has none")
        if found.layers[0].lora_scale != update.scale:
            raise InputError(
                f"the update of {update.module} must have the adapter's scale {update.scale}, got "
                f"{found.layers[0].lora_scale}"
            )
        for part in update.names:
            array = getattr(found, part)
            if array is None:
                raise InputError(
                    f"the update of {update.module} must have magnitudes (use_dora), but has none"
                )
            array = array.reshape(tensors[update.names[part]].shape) if part == "magnitude" else array
            tensors[update.names[part]] = _kept(tensors[update.names[part]], array)
    if left:
        raise InputError(f"the model has an update of {next(iter(left))}, but the adapter has none")
    if adapter.replaced:
        weights = _weights(model, layout, axes)
        for plain, names in adapter.replaced.items():
            if (array := weights.get(layout.canonical(plain))) is None:
                continue
            for name in names:
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
        if not name.rpartition(".")[2].startswith("lora_")
    }
    return convert(kept, "torch_attention", layout, axes)[0]
