"""Readers of rotary embeddings (RoPE) in Hugging Face's configurations, in the current and the older format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.shown import shown

SCALED = ("linear", "dynamic", "llama3", "yarn", "longrope", "proportional")
ORIGINAL = "original_max_position_embeddings"
# Frequencies of time, height and width of images; the three positions of a text token are equal.
SECTIONS = ("mrope_section", "mrope_interleaved")


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
        CheckpointError: the kind of scaling is unknown, or its parameters are impossible.
    """
    given = parameters(fields, layers)
    if rotary_dim < 2 or rotary_dim % 2:
        raise CheckpointError(
            f"{fields.source} must rotate an even number of a head's features, got {rotary_dim}"
        )
    base = given.number("rope_theta", default=fields.number("rope_theta", "rotary_emb_base", default=10000.0))
    share = given.number("partial_rotary_factor", default=None)
    given.seen.update(SECTIONS)
    kind = _kind(given)
    if kind == "default":
        arguments: dict[str, Any] = {"base": base}
    elif kind == "proportional":
        share = fields.number("partial_rotary_factor", default=1.0) if share is None else share
        rotary_dim = rotary_dim if head_dim is None else head_dim
        arguments = _proportional(given, share, rotary_dim, base)
    elif kind == "longrope":
        arguments = _longrope(given, fields, rotary_dim, base)
    else:
        arguments = _scaled(kind, given, fields, rotary_dim, base)
    given.refuse_unread("rope parameters that are not understood", _NAMES[kind])
    sizes = {"head_dim": rotary_dim}
    if head_dim not in (None, rotary_dim):
        sizes = {"head_dim": head_dim, "rotary_dim": rotary_dim}
    return Part("RotaryEmbedding", {**sizes, **arguments, **others})


def rotary_share(fields: Fields, default: float) -> float:
    """The share of a head's features that are rotated, `partial_rotary_factor`.

    Raises:
        CheckpointError: it is not a positive number of at most 1.
    """
    share = fields.number("partial_rotary_factor", default=default)
    share = parameters(fields).number("partial_rotary_factor", default=share)
    if share > 1.0:
        raise CheckpointError(f"{fields.source} must have a partial_rotary_factor of at most 1, got {share}")
    return share


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


def with_default(fields: Fields, default: Mapping[str, Any]) -> Fields:
    """Fields for `rope` with these RoPE parameters if the configuration has none; they include the base."""
    if any(fields.raw(name) is not None for name in ("rope_parameters", "rope_scaling")):
        return fields
    fields.raw("rope_theta")
    length = fields.raw("max_position_embeddings")
    return Fields({"rope_parameters": default, "max_position_embeddings": length}, fields.source)


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
    "dynamic": {"factor", ORIGINAL},
    "proportional": {"factor"},
    "longrope": {"factor", "short_factor", "long_factor", ORIGINAL, "attention_factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", ORIGINAL},
    "yarn": {
        "factor",
        "beta_fast",
        "beta_slow",
        "truncate",
        ORIGINAL,
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
    if kind == "dynamic":
        if rotary_dim == 2:
            raise CheckpointError(
                f"{fields.source} must rotate more than 2 features of a head for rope_type dynamic, got 2"
            )
        lengths = {"original_length": fields.size("max_position_embeddings")}
        return {"base": base, "ntk_factor": arguments["factor"], **lengths}
    arguments["original_length"] = _original(given, fields)
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


def _original(given: Fields, fields: Fields) -> int:
    """The length that a scaled model was trained on, in the RoPE parameters or for the whole model (Phi-3)."""
    default = given.size(ORIGINAL) if given.raw(ORIGINAL) is not None else None
    default = fields.size("max_position_embeddings") if default is None else default
    return fields.size(ORIGINAL, default=default)


def _proportional(given: Fields, share: float, head_dim: int, base: float) -> dict[str, Any]:
    """Frequencies of a proportion of the pairs of a whole head (Gemma 4)."""
    if share > 1.0:
        raise CheckpointError(f"{given.source} must have a partial_rotary_factor of at most 1, got {share}")
    arguments = {"head_dim": head_dim, "proportion": share, "factor": given.number("factor", default=1.0)}
    return {"base": base, "frequencies": Part("proportional_frequencies", {**arguments, "base": base})}


def _longrope(given: Fields, fields: Fields, rotary_dim: int, base: float) -> dict[str, Any]:
    """Frequencies divided by one factor each, with other factors above the original length (Phi-3)."""
    length = _original(given, fields)
    factor = given.number("factor", default=None)
    factor = fields.size("max_position_embeddings") / length if factor is None else factor
    if length == 1 and factor > 1.0:
        raise CheckpointError(f"{fields.source} must have an {ORIGINAL} above 1 for longrope, got 1")
    divisors = {
        f"{name}s": _divisors(given, name, rotary_dim // 2) for name in ("short_factor", "long_factor")
    }
    sizes = {"rotary_dim": rotary_dim, "original_length": length, "base": base, **divisors}
    amplitude = given.number("attention_factor", default=None)
    short, above = (Part("longrope_frequencies", {**sizes, "length": n}) for n in (length, length + 1))
    return {
        "base": base,
        "frequencies": short,
        "long_frequencies": above,
        "original_length": length,
        "amplitude": Part("longrope_amplitude", {"factor": factor, "original_length": length})
        if amplitude is None
        else amplitude,
    }


def _divisors(given: Fields, name: str, count: int) -> tuple[float, ...]:
    """One positive number per frequency."""
    values = given.raw(name)
    if not isinstance(values, list | tuple) or len(values) != count:
        raise CheckpointError(
            f"{given.source} must have {count} numbers in {name}, one per frequency, got {shown(values)}"
        )
    return tuple(Fields({name: value}, given.source).number(name) for value in values)


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
