"""Model families: readers that map a checkpoint's configuration to a model of the mirrors and a weight layout.

Neither framework is needed. An unsupported field that may affect the outputs raises an error that names it, so that a
loaded model never silently computes something else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.checkpoints.quantised.methods import KNOWN
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.declared import check_sizes
from attention_bridge.pretrained.families.defaults import defaults_of
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.model_types import model_type_of
from attention_bridge.pretrained.families.readers import FAMILIES
from attention_bridge.pretrained.families.readers.own import MODEL_TYPE
from attention_bridge.pretrained.families.shown import cut, shown
from attention_bridge.pretrained.families.special_tokens import with_special_tokens
from attention_bridge.pretrained.families.tasks import check_task, with_task
from attention_bridge.pretrained.families.tensors import Tensors


def read_config(
    given: Mapping[str, Any],
    names: Collection[str] = (),
    source: object = "config.json",
    *,
    ignore: Collection[str] = (),
    task: str | None = None,
) -> Reading:
    """Read a model's configuration.

    Args:
        given: the configuration, the content of `config.json` or of Meta's `params.json`.
        names: names of the checkpoint's tensors, or the `Tensors` themselves, which show whether there is a pooler or
            a task head. For a mapping of names to tensors or shapes, sizes larger than the tensors raise an error
            before a model is built.
        source: name of the configuration in messages.
        ignore: fields that are not read.
        task: one of `TASKS`, for the model without a head or with another one; None for the head that there is.

    Returns:
        The model with its configuration, the layout of the tensors, and sizes of axes for `convert`.

    Raises:
        CheckpointError: the family is unknown, a size is missing or impossible, or an unsupported field may affect the
            outputs; or the tensors do not have the head of the task.
        InputError: `task` is unknown.
    """
    check_task(task)
    given = {name: value for name, value in given.items() if name not in ignore}
    if given.get("model_type") is None and (found := model_type_of(given, names, FAMILIES)) is not None:
        given["model_type"] = found
    try:
        return _read(Fields(given, source, defaults_of(given.get("model_type")), task), names)
    except CheckpointError as error:
        raise CheckpointError(cut(str(error))) from error


def _read(fields: Fields, names: Collection[str]) -> Reading:
    model_type = fields.raw("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = [name for name in FAMILIES if "." not in name and name != MODEL_TYPE]
        alike = ", ".join(get_close_matches(model_type, known)) if isinstance(model_type, str) else ""
        raise CheckpointError(
            f"{fields.source} must have a model_type of the {len(known)} in docs/loading.md"
            f"{alike and f', such as {alike}'}, got {shown(model_type)}"
        )
    family, tensors = FAMILIES[model_type], Tensors.of(names)
    reading = with_task(family.read(fields, tensors), family.heads, fields, tensors)
    quantised = fields.given.get("quantization_config")
    if isinstance(quantised, Mapping) and quantised.get("quant_method") in KNOWN:
        fields.seen.add("quantization_config")  # it describes the file, not the model
    fields.finish()
    reading = replace(reading, model=with_special_tokens(reading.model, {**fields.defaults, **fields.given}))
    if isinstance(names, Mapping):
        check_sizes(reading, names, fields.source)
    layout = reading.layout.with_copies_alone(tensors.given)
    return replace(reading, layout=layout, axes={**_head_axes(reading.model), **reading.axes})


def _head_axes(model: Part) -> dict[str, int]:
    """Axis sizes of attention heads, if equal in all layers: h heads, g key heads, d features, d / 2 rotary pairs."""
    config = model.arguments["config"].arguments
    if "backbone" in config:
        config = config["backbone"].arguments
    sizes = config
    if "layers" in config:
        every = [
            {**config, **mixer.arguments, "position": None, "window": None}
            for mixer in (layer.arguments["mixer"] for layer in config["layers"])
            if mixer is not None
        ]
        sizes = every[0] if every and all(each == every[0] for each in every) else {}
    if not {"num_heads", "embed_dim"} <= sizes.keys() or "kv_lora_rank" in sizes:
        return {}
    head_dim = sizes.get("head_dim") or sizes["embed_dim"] // sizes["num_heads"]
    groups = sizes.get("num_kv_heads") or sizes["num_heads"]
    return {"h": sizes["num_heads"], "g": groups, "d": head_dim, "pair": head_dim // 2}


__all__ = ["FAMILIES", "Family", "Reading", "read_config"]
