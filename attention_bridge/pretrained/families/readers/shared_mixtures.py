"""Readers of decoders with softmax routing and a shared expert: Ernie 4.5 MoE and Hunyuan MoE."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.expert_reading import mixture, stored_layout, without_prediction
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_ernie4_5_moe import HF_ERNIE4_5_MOE, HF_ERNIE4_5_MOE_STACKED
from attention_bridge.weights.layouts.hf_hunyuan_moe import HF_HUNYUAN_MOE, HF_HUNYUAN_MOE_STACKED

# Fields of the files that the reference does not read.
ERNIE = ("moe_capacity", "moe_gate", "moe_use_aux_free")
HUNYUAN = ("attention_head_dim", "eod_token_id", "moe_intermediate_size", "num_shared_expert")


def read_ernie4_5_moe(fields: Fields, tensors: Tensors) -> Reading:
    """Read an Ernie 4.5 MoE configuration (Baidu 2025)."""
    fields.only("use_bias", False)
    for name in ERNIE:
        fields.raw(name)
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), norm_eps=fields.number("rms_norm_eps"))
    num_layers, step = fields.layers("num_hidden_layers"), fields.size("moe_layer_interval")
    first, last = fields.whole("moe_layer_start_index"), fields.whole("moe_layer_end_index", least=-1)
    last = num_layers - 1 if last == -1 else last
    count = fields.whole("moe_num_shared_experts")
    experts = mixture(
        fields,
        "SoftmaxRouting",
        experts=("moe_num_experts",),
        chosen="moe_k",
        rule={"biased": True, "least_sum": fields.number("moe_norm_min", zero=True)},
        shared_dim=count * fields.size("moe_intermediate_size") if count else None,
    )
    mixer, dense = heads.mixer(rope(fields, heads.head_dim, interleaved=True)), gated_ffn(fields)
    sparse = [(n + 1) % step == 0 and first <= n <= last for n in range(num_layers)]
    layers = [layer_spec(mixer, experts if each else dense, "pre", heads.norm()) for each in sparse]
    layout = stored_layout(tensors, HF_ERNIE4_5_MOE, HF_ERNIE4_5_MOE_STACKED)
    layout = without_prediction(layout, tensors, num_layers)
    return decoder(fields, layers, layout, norm=heads.norm(), tied=True)


def read_hunyuan_moe(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Hunyuan MoE configuration (Tencent 2025): queries and keys normalised after the rotation."""
    for name, value in (("mlp_bias", False), ("use_cla", False), ("use_qk_norm", True)):
        fields.only(name, value)
    for name in HUNYUAN:
        fields.raw(name)
    sizes, norm = grouped_heads(fields), Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    mixer = Part(
        "QKNormAttention",
        {
            **sizes,
            "bias": fields.flag("attention_bias", False),
            "position": _alpha_rope(fields, sizes["head_dim"]),
            "eps": norm.arguments["eps"],
            "after_position": True,
        },
    )
    experts = mixture(
        fields,
        "SoftmaxRouting",
        ffn_dim="intermediate_size",
        experts=("num_experts", "num_local_experts"),
        chosen="moe_topk",
        shared_dim=fields.size("intermediate_size"),
    )
    layer = layer_spec(mixer, experts, "pre", norm)
    layout = stored_layout(tensors, HF_HUNYUAN_MOE, HF_HUNYUAN_MOE_STACKED)
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), layout, norm=norm)


def _alpha_rope(fields: Fields, head_dim: int) -> Part:
    """The rotary embedding; with a fixed `alpha`, "dynamic" scaling only enlarges the base."""
    given = parameters(fields)
    if given.raw("rope_type", "type") != "dynamic" or not given.raw("alpha"):
        return rope(fields, head_dim)
    if head_dim <= 2:
        raise CheckpointError(f"{fields.source} must have a head_dim above 2 for alpha, got {head_dim}")
    base = given.number("rope_theta", default=fields.number("rope_theta", default=10000.0))
    base *= given.number("alpha") ** (head_dim / (head_dim - 2))
    return Part("RotaryEmbedding", {"head_dim": head_dim, "base": base})


FAMILIES = (
    Family("hf.ernie4_5_moe", ("ernie4_5_moe",), read_ernie4_5_moe),
    Family("hf.hunyuan_moe", ("hunyuan_v1_moe",), read_hunyuan_moe, decoder_heads("score")[:1]),
)
