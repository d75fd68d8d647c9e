"""The updates of a model as PEFT stores them: one pair of factors for each weight of the base."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.errors import ConversionError, InputError
from attention_bridge.pretrained.adapters.config import AdapterConfig
from attention_bridge.pretrained.adapters.input_axis import input_axis
from attention_bridge.pretrained.adapters.mirrors import mirror_of
from attention_bridge.weights import convert
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import to_numpy

_MERGE = "merge_lora(model), and save the merged model"


class Factors(NamedTuple):
    """The factors of one weight of the base.

    Attributes:
        layers: the layers of the model that the weight consists of.
        a: first factor, (rank, in).
        b: second factor, (out, rank).
        magnitude: magnitudes of the outputs, (out,); None without DoRA.
    """

    layers: tuple[Any, ...]
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors by the end of PEFT's names."""
        if _is_embedding(self.layers[0]):
            return {"lora_embedding_A": self.a, "lora_embedding_B": self.b}
        found = {"lora_A.weight": self.a, "lora_B.weight": self.b}
        return found if self.magnitude is None else {**found, "lora_magnitude_vector": self.magnitude}


def factors_of(model: Any, layout: Layout, axes: Mapping[str, int] | None) -> dict[str, Factors]:
    """The factors of each weight of the base, by the path of its module in the layout.

    Args:
        model: model with `LoRALinear` layers.
        layout: layout of the base's tensors.
        axes: sizes of axes that the shapes do not give, as for `convert`; None for none.

    Raises:
        InputError: the model has no update, or one weight of the base has updates that differ in A, rank or scale.
    """
    lora = import_module(f"{mirror_of(model)}.lora")
    layers = dict(lora.lora_layers(model))
    if not layers:
        raise InputError(f"this {type(model).__name__} has no LoRALinear layers whose updates could be saved")
    rows = {f"{path}.weight": _rows(layer) for path, layer in layers.items()}
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
        factors = [_array(_common(layer)) for layer in members]
        if any(other.tobytes() != factors[0].tobytes() for other in factors[1:]):
            raise InputError(
                f"{layout.name} has one weight for {', '.join(origins[name])}, whose lora_A must be the same, but they "
                f"differ: {_MERGE}"
            )
        if len({layer.lora_scale for layer in members}) > 1:
            raise InputError(f"{', '.join(origins[name])} must have one scale, but they differ: {_MERGE}")
        both = np.ascontiguousarray(array if input_axis(layout, name) else array.T)
        module, rank = name.removesuffix(".weight"), members[0].rank
        if _is_embedding(members[0]):
            saved[module] = Factors(members, np.ascontiguousarray(both.T), factors[0], None)
        else:
            magnitude = both[:, -1] if both.shape[1] > rank else None
            saved[module] = Factors(members, factors[0], np.ascontiguousarray(both[:, :rank]), magnitude)
    return saved


def _is_embedding(layer: Any) -> bool:
    return hasattr(layer, "lora_embedding_A")


def _common(layer: Any) -> Any:
    """The factor that layers of one weight share."""
    return layer.lora_embedding_B if _is_embedding(layer) else layer.lora_A


def _rows(layer: Any) -> np.ndarray:
    """The rows of B, with their magnitudes behind them if there are any, or of Aᵀ for an embedding.

    The layout reorders them as the rows of the weight.
    """
    if _is_embedding(layer):
        return _array(layer.lora_embedding_A).T
    b = _array(layer.lora_B)
    if layer.lora_magnitude_vector is None:
        return b
    return np.column_stack([b, _array(layer.lora_magnitude_vector)])


def new_config(
    given: Mapping[str, Any], saved: Mapping[str, Factors], layout: Layout, prefix: str
) -> dict[str, Any]:
    """The configuration of updates that come from no adapter.

    Args:
        given: further fields, such as `base_model_name_or_path`.
        saved: the factors, by the path of the module in the layout.
        layout: layout of the base's tensors.
        prefix: path of the layout's modules in the class of transformers.

    Raises:
        InputError: the updates differ in an option that PEFT has once for all.
        CheckpointError: a further field is not supported.
    """
    layers = {prefix + name: each.layers[0] for name, each in saved.items()}
    first = next(iter(layers.values()))
    linear = [layer for layer in layers.values() if not _is_embedding(layer)]
    for option, group in (("use_rslora", layers.values()), ("use_dora", linear)):
        if len({getattr(layer, option) for layer in group}) > 1:
            raise InputError(f"all updates must have the same {option}, but some differ: {_MERGE}")
    use_dora = any(layer.use_dora for layer in linear)
    if use_dora and len(linear) < len(layers):
        raise InputError(f"use_dora must be false beside an update of an embedding: {_MERGE}")
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "bias": "none",
        "task_type": None,
        "inference_mode": True,
        **given,
        "r": first.rank,
        "lora_alpha": _plain(first.alpha),
        "use_rslora": first.use_rslora,
        "use_dora": use_dora,
        "lora_dropout": max((layer.dropout.rate for layer in linear), default=0.0),
        "target_modules": sorted(layers),
        "fan_in_fan_out": any(input_axis(layout, f"{name}.weight") == 0 for name in saved),
        "rank_pattern": _others(first.rank, {name: layer.rank for name, layer in layers.items()}),
        "alpha_pattern": _others(
            _plain(first.alpha), {name: _plain(layer.alpha) for name, layer in layers.items()}
        ),
    }
    AdapterConfig(fields)
    return fields


def _others(common: float, each: Mapping[str, float]) -> dict[str, float]:
    """The values that differ from the common one, by pattern."""
    return {f"^{name.replace('.', '[.]')}": value for name, value in each.items() if value != common}


def _plain(number: float) -> float:
    """The number as an integer if it is whole, as PEFT writes it."""
    return int(number) if number == int(number) else number


def _array(parameter: Any) -> np.ndarray:
    return to_numpy("parameter", parameter.get_value() if hasattr(parameter, "get_value") else parameter)
