"""Readers of rotary embeddings (RoPE) in Hugging Face's configurations, in the current and the older format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.shown import shown

SCALED = ("linear", "llama3", "proportional", "yarn")


def rope(
    fields: Fields, rotary_dim: int, layers: str | None = None, head_dim: int | None = None, **others: object
) -> Part:
    """Read a model's `RotaryEmbedding`.

    Args:
        fields: the configuration.
        rotary_dim: number of rotated features of a head.
        layers: kind of layers ("full_attention"), for configurations with parameters per kind; None for all layers.
        head_dim: features of a head; None for `rotary_dim`.
        others: further arguments of `RotaryEmbedding`.

    Raises:
        CheckpointError: the kind of scaling is unknown or depends on the length of the input.
    """
    given = parameters(fields, layers)
    if rotary_dim < 2 or rotary_dim % 2:
        raise CheckpointError(
            f"{fields.source} must rotate an even number of a head's features, got {rotary_dim}"
        )
    base = given.number("rope_theta", default=fields.number("rope_theta", "rotary_emb_base", default=10000.0))
    proportion = given.number("partial_rotary_factor", default=1.0)
    kind = _kind(given)
    if kind == "default":
        arguments: dict[str, Any] = {"base": base}
    elif kind == "proportional":
        arguments = {"base": base, "frequencies": _proportional(given, rotary_dim, proportion, base)}
    else:
        arguments = _scaled(kind, given, fields, rotary_dim, base)
    given.refuse_unread("rope parameters that are not understood", _NAMES[kind])
    sizes = {"head_dim": rotary_dim}
    if head_dim not in (None, rotary_dim):
        sizes = {"head_dim": head_dim, "rotary_dim": rotary_dim}
    return Part("RotaryEmbedding", {**sizes, **arguments, **others})


def parameters(fields: Fields, layers: str | None = None) -> Fields:
    """The RoPE parameters of a configuration: `rope_parameters`, or `rope_scaling` in older files."""
    today, before = fields.raw("rope_parameters"), fields.raw("rope_scaling")
    for given in (today, before):
        if given is not None and not isinstance(given, Mapping):
            raise CheckpointError(f"{fields.source} must have rope_parameters with names, got {shown(given)}")
    if today is not None and before is not None and today != before:
        raise CheckpointError(
            f"{fields.source} must have rope_parameters or rope_scaling, or both alike, "
            f"got {shown(today)} and {shown(before)}"
        )
    given = before if today is None else today
    found = Fields({} if given is None else given, fields.source)
    return found.part(layers) if layers is not None and layers in found.given else found


def _kind(given: Fields) -> str:
    kind = given.raw("rope_type", "type", default="default")
    if kind not in ("default", *SCALED):
        raise CheckpointError(
            f"{given.source} must have a rope_type default, {', '.join(SCALED)}, got {shown(kind)}"
        )
    return str(kind)


_NAMES: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "proportional": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor",
        "beta_fast",
        "beta_slow",
        "truncate",
        "original_max_position_embeddings",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
    },
}


def _scaled(kind: str, given: Fields, fields: Fields, rotary_dim: int, base: float) -> dict[str, Any]:
    if given.raw("factor") is None:
        raise CheckpointError(f"{fields.source} must have a factor for rope_type {kind!r}, got none")
    arguments: dict[str, Any] = {"rotary_dim": rotary_dim, "factor": given.number("factor"), "base": base}
    if kind == "linear":
        return {"base": base, "frequencies": Part("linear_frequencies", arguments)}
    name = "original_max_position_embeddings"
    arguments["original_length"] = (
        fields.size("max_position_embeddings") if given.raw(name) is None else given.size(name)
    )
    below, above = ("low_freq_factor", "high_freq_factor") if kind == "llama3" else ("beta_slow", "beta_fast")
    low, high = (1.0, 4.0) if kind == "llama3" else (1.0, 32.0)
    low, high = given.number(below, default=low), given.number(above, default=high)
    if low >= high:
        raise CheckpointError(f"{fields.source} must have {below} below {above}, got {low} and {high}")
    arguments |= {below: low, above: high}
    if kind == "llama3":
        return {"base": base, "frequencies": Part("llama3_frequencies", arguments)}
    if base <= 1.0:
        raise CheckpointError(f"{fields.source} must have a rope_theta above 1 for yarn, got {base}")
    if given.raw("truncate") is not None:
        arguments["truncate"] = given.flag("truncate", True)
    return {
        "base": base,
        "frequencies": Part("yarn_frequencies", arguments),
        "amplitude": yarn_amplitude(given),
    }


def _proportional(given: Fields, head_dim: int, proportion: float, base: float) -> Part:
    """The frequencies of proportional RoPE, which turns a proportion of the pairs."""
    if proportion > 1.0:
        raise CheckpointError(
            f"{given.source} must have a partial_rotary_factor of at most 1, got {shown(proportion)}"
        )
    arguments: dict[str, Any] = {"head_dim": head_dim, "proportion": proportion, "base": base}
    if (factor := given.number("factor", default=1.0)) != 1.0:
        arguments["factor"] = factor
    return Part("proportional_frequencies", arguments)


def yarn_amplitude(given: Fields) -> float:
    """YaRN's factor on cosine and sine (Peng et al. 2023, eq. 22; DeepSeek uses a ratio of two such factors)."""
    factor = given.number("factor")
    weights = (
        given.number("mscale", default=0.0, zero=True),
        given.number("mscale_all_dim", default=0.0, zero=True),
    )
    if given.raw("attention_factor") is not None:
        return given.number("attention_factor")
    if all(weights):
        return _mscale(factor, weights[0]) / _mscale(factor, weights[1])
    return _mscale(factor, 1.0)


def yarn_scale(given: Fields) -> float:
    """DeepSeek's additional factor on the scores when YaRN scales the positions; else 1."""
    weight = given.number("mscale_all_dim", default=0.0, zero=True)
    return 1.0 if _kind(given) == "default" or not weight else _mscale(given.number("factor"), weight) ** 2


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0
