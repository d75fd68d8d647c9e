"""Rotary embeddings (RoPE) in the metadata of GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.weights.leaves import Spec

FACTORS = "rope_freqs.weight"  # Llama 3.1: each frequency is divided by its factor
KINDS = ("none", "linear", "yarn")


def gguf_rope_parameters(fields: Fields, name: str) -> dict[str, Any]:
    """Read base and scaling, in the format of Hugging Face's `rope_parameters`.

    Args:
        fields: the metadata.
        name: name of the architecture, which the keys begin with.

    Raises:
        CheckpointError: the kind of scaling is not supported.
    """
    scaling = f"{name}.rope.scaling"
    found: dict[str, Any] = {"rope_theta": fields.number(f"{name}.rope.freq_base", default=10000.0)}
    kind = fields.raw(f"{scaling}.type", default="linear")
    if kind not in KINDS:
        raise CheckpointError(
            f"{fields.source} must have a {scaling}.type of {', '.join(KINDS)}, got {shown(kind)}"
        )
    # Zero means 1 to llama.cpp; `rope.scale_linear` is the older name.
    factor = fields.number(f"{scaling}.factor", f"{name}.rope.scale_linear", default=1.0, zero=True) or 1.0
    fields.only(f"{scaling}.attn_factor", 1.0)
    fields.raw(f"{scaling}.finetuned")
    original = fields.size(f"{scaling}.original_context_length", default=None)
    if kind == "yarn":
        fields.only(f"{scaling}.yarn_ext_factor", 1.0)
        if original is None:
            original = fields.size(f"{name}.context_length")
        found |= {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}
        # As in the models that files are made from; llama.cpp itself uses the defaults of both.
        for beta in ("beta_fast", "beta_slow"):
            if f"{scaling}.yarn_{beta}" in fields.given:
                found[beta] = fields.number(f"{scaling}.yarn_{beta}")
    elif kind == "linear" and factor != 1.0:
        found |= {"rope_type": kind, "factor": factor}
    return found


def frequency_factors(
    specs: Mapping[str, Spec], read: Callable[[str], np.ndarray] | None, source: object, count: int
) -> list[float] | None:
    """Read the divisors of the rotary frequencies; None if there is no such tensor.

    Args:
        specs: shape and dtype of each tensor.
        read: function that returns the values of the tensor of a name; None if there is none.
        source: the file, for messages.
        count: number of frequencies.

    Raises:
        CheckpointError: the tensor has another shape, or cannot be read.
    """
    if FACTORS not in specs:
        return None
    if specs[FACTORS].shape != (count,):
        raise CheckpointError(f"{source} must have {count} factors in {FACTORS}, got {specs[FACTORS]}")
    if read is None:
        raise CheckpointError(f"{source} must be opened: {FACTORS} changes the rotary frequencies")
    return [float(x) for x in read(FACTORS)]


def gguf_rope(fields: Fields, head_dim: int) -> Part:
    """Read a `RotaryEmbedding` from a configuration that `gguf_config` returned.

    Raises:
        CheckpointError: there is not one positive factor per frequency, or there are factors beside another scaling.
    """
    position = rope(fields, head_dim)
    factors = fields.raw("rope_frequency_factors")
    if factors is None:
        return position
    if "frequencies" in position.arguments:
        raise CheckpointError(
            f"{fields.source} must have {FACTORS} or another scaling of the rotary frequencies, got both"
        )
    if not isinstance(factors, list | tuple) or len(factors) != head_dim // 2:
        raise CheckpointError(
            f"{fields.source} must have {head_dim // 2} factors in {FACTORS}, one per frequency, got {shown(factors)}"
        )
    divisors = [Fields({FACTORS: factor}, fields.source).number(FACTORS) for factor in factors]
    base = position.arguments["base"]
    frequencies = tuple(base ** (-2 * i / head_dim) / divisor for i, divisor in enumerate(divisors))
    return Part("RotaryEmbedding", {**position.arguments, "frequencies": frequencies})
