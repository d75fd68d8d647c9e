"""The positions that turn queries and keys, as Hugging Face's configurations describe them, of today and of before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attention_bridge.catalogue.mechanism import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.families.fields import Fields

SCALED = ("linear", "llama3", "yarn")


def rope(fields: Fields, rotary_dim: int, layers: str | None = None, **others: object) -> Part:
    """The `RopeConfig` of a model.

    Args:
        fields: the configuration.
        rotary_dim: features that are turned.
        layers: the kind of layers, where each kind has its own ("full_attention").
        others: of its arguments.

    Raises:
        CheckpointError: a kind of scaling that is not known, or one that depends on the length of a text.
    """
    given = parameters(fields, layers)
    base = float(given.get("rope_theta", fields.raw("rope_theta", "rotary_emb_base", default=10000.0)))
    kind = given.get("rope_type", given.get("type", "default"))
    known = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
    if kind == "default":
        arguments: dict[str, Any] = {"base": base}
    elif kind in SCALED:
        known |= _NAMES[kind]
        arguments = _scaled(kind, given, fields, rotary_dim, base)
    else:
        raise CheckpointError(
            f"{fields.source} must have a rope_type default, {', '.join(SCALED)}, got {kind!r}"
        )
    if unknown := sorted(given.keys() - known):
        raise CheckpointError(
            f"{fields.source} has rope parameters that are not understood: {', '.join(unknown)}"
        )
    return Part("RopeConfig", {**arguments, **others})


def parameters(fields: Fields, layers: str | None = None) -> Mapping[str, Any]:
    """What the configuration says of its positions: `rope_parameters` today, `rope_scaling` before."""
    given = fields.raw("rope_parameters", "rope_scaling", default={})
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{fields.source} must have rope_parameters with names, got {given!r}")
    return given.get(layers, given) if layers is not None else given


_NAMES = {
    "linear": {"factor"},
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


def _scaled(
    kind: str, given: Mapping[str, Any], fields: Fields, rotary_dim: int, base: float
) -> dict[str, Any]:
    if "factor" not in given:
        raise CheckpointError(f"{fields.source} must have a factor for rope_type {kind!r}, got none")
    arguments: dict[str, Any] = {"rotary_dim": rotary_dim, "factor": float(given["factor"]), "base": base}
    if kind == "linear":
        return {"base": base, "frequencies": Part("linear_frequencies", arguments)}
    original = given.get("original_max_position_embeddings", fields.raw("max_position_embeddings"))
    arguments["original_length"] = original
    optional = ("low_freq_factor", "high_freq_factor") if kind == "llama3" else ("beta_fast", "beta_slow")
    arguments |= {name: float(given[name]) for name in optional if given.get(name) is not None}
    if kind == "llama3":
        return {"base": base, "frequencies": Part("llama3_frequencies", arguments)}
    if given.get("truncate") is not None:
        arguments["truncate"] = given["truncate"]
    return {
        "base": base,
        "frequencies": Part("yarn_frequencies", arguments),
        "amplitude": yarn_amplitude(given),
    }


def yarn_amplitude(given: Mapping[str, Any]) -> float:
    """What YaRN multiplies cosine and sine by (Peng et al. 2023, eq. 22; DeepSeek divides two of these)."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    factor, weights = float(given["factor"]), (given.get("mscale"), given.get("mscale_all_dim"))
    if all(weights):
        return _mscale(factor, weights[0]) / _mscale(factor, weights[1])
    return _mscale(factor, 1.0)


def yarn_scale(given: Mapping[str, Any]) -> float:
    """What DeepSeek multiplies scores by besides, where YaRN stretches its positions."""
    weight = given.get("mscale_all_dim")
    kind = given.get("rope_type", given.get("type", "default"))
    return 1.0 if kind == "default" or not weight else _mscale(float(given["factor"]), weight) ** 2


def _mscale(factor: float, weight: Any) -> float:
    return 0.1 * float(weight) * math.log(factor) + 1.0 if factor > 1.0 else 1.0
