"""Reader of Falcon-H1: attention and Mamba-2 in parallel in each layer, with factors on every projection."""

from __future__ import annotations

from collections.abc import Sequence

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import LARGEST_NUMBER, Fields
from attention_bridge.pretrained.families.readers.mamba2 import OF_HYBRIDS, mamba2
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_mamba2 import HF_FALCON_H1


def read_falcon_h1(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Falcon-H1 configuration (TII 2025)."""
    fields.raw("num_logits_to_keep")  # of generation alone
    eps, bias = fields.number("rms_norm_eps"), fields.flag("attention_bias", False)
    sizes = grouped_heads(fields)
    heads = Heads(
        fields.size("hidden_size"),
        **sizes,
        qkv_bias=bias,
        out_bias=bias,
        scale=fields.number("key_multiplier") * sizes["head_dim"] ** -0.5,
        norm_eps=eps,
    )
    mixer = Part(
        "ParallelMixers",
        {
            "attention_mixer": heads.mixer(rope(fields, heads.head_dim)),
            "recurrent_mixer": _recurrent(fields, eps),
            "attention_scales": (
                fields.number("attention_in_multiplier"),
                fields.number("attention_out_multiplier"),
            ),
            "recurrent_scales": (fields.number("ssm_in_multiplier"), fields.number("ssm_out_multiplier")),
        },
    )
    gate, output = _factors(fields, "mlp_multipliers", 2)
    ffn = gated_ffn(fields, bias=fields.flag("mlp_bias", False))
    ffn = Part("GatedFeedForward", {**ffn.arguments, "gate_scale": gate, "output_scale": output})
    layer = layer_spec(mixer, ffn, "pre", heads.norm())
    return decoder(
        fields,
        [layer] * fields.layers("num_hidden_layers"),
        HF_FALCON_H1,
        norm=heads.norm(),
        embed_scale=fields.number("embedding_multiplier"),
        logit_scale=fields.number("lm_head_multiplier"),
    )


def _recurrent(fields: Fields, eps: float) -> Part:
    """The `Mamba2` layer, whose norm is optional and whose projection has a factor for each of its five parts."""
    normed, first = fields.flag("mamba_rms_norm", False), fields.flag("mamba_norm_before_gate", True)
    plain = mamba2(fields, OF_HYBRIDS, eps=eps, inner="mamba_d_ssm")
    return Part(
        "Mamba2",
        {
            **plain.arguments,
            "out_bias": fields.flag("projectors_bias", False),
            "norm_order": None if not normed else "before_gate" if first else "after_gate",
            "part_scales": _factors(fields, "ssm_multipliers", 5),
        },
    )


def _factors(fields: Fields, name: str, count: int) -> tuple[float, ...]:
    """The positive numbers of a list; 1 for each if the field is absent or null."""
    given = fields.raw(name, default=[1.0] * count)
    numbers = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if len(numbers) != count or not all(type(x) in (int, float) and 0 < x <= LARGEST_NUMBER for x in numbers):
        raise CheckpointError(
            f"{fields.source} must have {count} positive numbers {name}, got {shown(given)}"
        )
    return tuple(float(x) for x in numbers)


FAMILIES = (Family("hf.falcon_h1", ("falcon_h1",), read_falcon_h1),)
