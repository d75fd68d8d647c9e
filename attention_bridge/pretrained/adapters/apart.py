"""Adapters beside the layers of a model of either mirror, as `LoRALinear` and `LoRAEmbedding`, ready to be trained.

Query, key and value may be one fused weight in a checkpoint: its update becomes one for each layer. Their factors A
are one shared parameter, and the rows of B are split and reordered by the layout's own rule for the weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from attention_bridge.errors import CheckpointError, ConversionError, InputError
from attention_bridge.pretrained.adapters.adapter import Adapter, Update
from attention_bridge.pretrained.adapters.input_axis import input_axis, is_dropped
from attention_bridge.pretrained.adapters.mirrors import layer_classes, mirror_of, modules_of, weight_shape
from attention_bridge.pretrained.adapters.trained import mark_trained
from attention_bridge.weights import convert
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import is_torch, like


def apply_adapter(
    model: Any, adapter: Adapter, layout: Layout, axes: Mapping[str, int] | None = None, *, seed: int = 0
) -> Any:
    """Put the updates of an adapter beside the layers of a model, in place.

    The model's other weights are the base's: load them from `replaced(reader, adapter)`. As in PEFT, the updates and
    the tensors that the adapter replaces are trained, and all others are frozen: in PyTorch the frozen parameters
    require no gradient; in JAX the trained ones have the type `nnx.LoRAParam`.

    Args:
        model: model of `torch_attention.models` or `jax_attention.models`.
        adapter: the adapter.
        layout: layout of the base's tensors.
        axes: sizes of axes that the shapes do not give, as for `convert`; None for none.
        seed: seed of the dropout in JAX.

    Returns:
        The model, with a warning for each update of a head that it lacks.

    Raises:
        CheckpointError: an update does not belong to layers of this model.
    """
    package = mirror_of(model)
    lora = import_module(f"{package}.lora")
    linear, embedding = layer_classes(package)
    modules = modules_of(model)
    layers: dict[str, tuple[Update, np.ndarray]] = {}
    for update in adapter.updates.values():
        if is_dropped(update.weight, layout):
            warnings.warn(
                f"{adapter.path} has an update of {update.module}, a head that this {type(model).__name__} does not "
                "have; save_adapter keeps it",
                stacklevel=2,
            )
            continue
        kind = embedding if update.is_embedding else linear
        for path, rows in _split(update, adapter, layout, axes).items():
            layer = modules.get(path)
            if type(layer) is not kind or path in layers:
                raise CheckpointError(
                    f"{adapter.path} has an update of {update.module}, which is no plain {kind.__name__} of this "
                    f"{type(model).__name__}: {_MERGE}"
                )
            given = (len(rows), len(update.b) if update.is_embedding else update.a.shape[1])
            if (expected := weight_shape(layer)) != given:
                raise CheckpointError(
                    f"{adapter.path} has an update of shape {given} for {path}, which has shape {expected}"
                )
            layers[path] = update, rows
    trained = mark_trained(model, adapter, layout, axes)
    random = _random_streams(package, seed)
    shared: dict[str, Any] = {}
    for path, (update, rows) in layers.items():
        layer = _layer(lora, modules[path], update, adapter, random)
        own, common = (
            ("lora_embedding_A", "lora_embedding_B") if update.is_embedding else ("lora_B", "lora_A")
        )
        _fill(layer, own, rows.T if update.is_embedding else rows[:, : len(update.a)])
        if update.magnitude is not None:
            _fill(layer, "lora_magnitude_vector", rows[:, -1])
        if update.module in shared:
            setattr(layer, common, shared[update.module])
        else:
            _fill(layer, common, update.b if update.is_embedding else update.a)
            shared[update.module] = getattr(layer, common)
        lora.replace_module(model, path, layer)
    if package == "torch_attention":
        model.requires_grad_(False)
        for parameter in (*lora.lora_parameters(model).values(), *trained):
            parameter.requires_grad_(True)
    return model


_MERGE = "merge the adapter instead (merge=True)"


def check_plain(model: Any) -> None:
    """Check that a model has no updates beside its layers, which a checkpoint of the whole model cannot hold.

    Raises:
        InputError: it has `LoRALinear` or `LoRAEmbedding` layers.
    """
    lora = import_module(f"{mirror_of(model)}.lora")
    for path, _ in lora.lora_layers(model):
        raise InputError(
            f"this {type(model).__name__} has an update at {path}: merge_lora(model) adds it to the weights; "
            "save_adapter(model, ...) saves the updates alone"
        )


def _split(
    update: Update, adapter: Adapter, layout: Layout, axes: Mapping[str, int] | None
) -> dict[str, np.ndarray]:
    """The rows of each layer of the mirrors that the adapted weight consists of, by the layer's path.

    A row has the entries of B, and its magnitude behind them if there is one; for embeddings, the entries of Aᵀ.
    """
    if update.is_embedding and update.magnitude is not None:
        raise CheckpointError(
            f"{adapter.path} has magnitudes (DoRA) of the embedding {update.module}: {_MERGE}"
        )
    axis = input_axis(layout, update.weight)
    if axis is None:
        raise CheckpointError(
            f"{adapter.path} has an update of {update.module}, which is no weight of a layer in the layout "
            f"{layout.name}, or has its inputs reordered: {_MERGE}"
        )
    rows = update.a.T if update.is_embedding else update.b
    rows = rows if update.magnitude is None else np.column_stack([rows, update.magnitude])
    try:
        found, _ = convert({update.weight: rows if axis else rows.T}, layout, "torch_attention", axes)
    except ConversionError as error:
        fault = error.faults[0]
        raise CheckpointError(
            f"{adapter.path} has an update of {update.module} that does not fit the model: {fault.fault}, "
            f"expected {fault.expected}, got {fault.given}"
        ) from error
    parts = {name.removesuffix(".weight"): x for name, x in found.items() if name.endswith(".weight")}
    if sum(x.size for x in parts.values()) != rows.size:
        raise CheckpointError(
            f"{adapter.path} has an update of {update.module}, which the model does not have: {_MERGE}"
        )
    return parts


def _random_streams(package: str, seed: int) -> dict[str, Any]:
    """The random streams of all new layers, for their constructors: each layer takes other numbers of them."""
    if package == "torch_attention":
        return {}
    from flax import nnx

    return {"rngs": nnx.Rngs(seed)}


def _layer(lora: Any, base: Any, update: Update, adapter: Adapter, random: Mapping[str, Any]) -> Any:
    """The adapted layer, in evaluation mode."""
    fields = adapter.config.fields
    options: dict[str, Any] = {
        "alpha": float(adapter.config.alpha(update.module)),
        "use_rslora": bool(fields.get("use_rslora")),
        **random,
    }
    if not update.is_embedding:
        options["use_dora"] = adapter.config.use_dora
        options["dropout"] = float(fields.get("lora_dropout") or 0.0)
    make = lora.LoRAEmbedding if update.is_embedding else lora.LoRALinear
    layer = make(base, len(update.a), **options)
    layer.eval()
    return layer


def _fill(layer: Any, name: str, array: np.ndarray) -> None:
    """Replace a parameter of a layer; the array takes its dtype."""
    parameter = getattr(layer, name)
    if is_torch(parameter):
        dtype = np.dtype(str(parameter.dtype).removeprefix("torch."))
        setattr(layer, name, like(parameter, array.astype(dtype)))
    else:
        parameter[...] = like(parameter[...], array.astype(parameter.dtype))
