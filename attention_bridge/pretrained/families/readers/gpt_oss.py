"""Reader of gpt-oss: attention sinks, windows in every other layer, biased and clamped experts."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.expert_reading import mixture
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import sequence_head, token_head
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_gpt_oss import HF_GPT_OSS

# The scaling of positions of a configuration that names none.
YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}


def read_gpt_oss(fields: Fields, tensors: Tensors) -> Reading:
    """Read a gpt-oss configuration (OpenAI 2025)."""
    fields.only("swiglu_alpha", 1.702)
    for name in ("hidden_act", "initial_context_length"):  # the reference does not read them
        fields.raw(name)
    num_layers, sizes = fields.layers("num_hidden_layers"), grouped_heads(fields)
    plain = [FULL if n % 2 else WINDOWED for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    window = fields.size("sliding_window", default=None)
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    experts = mixture(
        fields,
        "SoftmaxRouting",
        ffn_dim="intermediate_size",
        activation=False,
        bias=True,
        limit=fields.number("swiglu_limit"),
    )
    shared = {**sizes, "bias": fields.flag("attention_bias", True), "position": _position(fields, sizes)}
    layers = [
        layer_spec(
            Part("LearnedSinkAttention", {**shared, "window": window if kind == WINDOWED else None}),
            experts,
            "pre",
            norm,
        )
        for kind in kinds
    ]
    return decoder(fields, layers, HF_GPT_OSS, norm=norm)


def _position(fields: Fields, sizes: dict[str, int]) -> Part:
    if fields.raw("rope_parameters") is None and fields.raw("rope_scaling") is None:
        given = Fields({**fields.given, "rope_parameters": YARN}, fields.source, fields.defaults)
        fields.seen.add("rope_theta")
        return rope(given, sizes["head_dim"])
    return rope(fields, sizes["head_dim"])


HEADS = (
    sequence_head("score", pooling="LastToken", bias=False, classes=("ForSequenceClassification",)),
    token_head("score"),
)
FAMILIES = (Family("hf.gpt_oss", ("gpt_oss",), read_gpt_oss, HEADS),)
