"""Readers of decoders with grouped-query attention and experts of sigmoid routing: GLM-4.5, dots.llm1, MiniMax M2."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.expert_reading import mixture, stored_layout, without_prediction
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.rope import rope, rotary_share
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_deepseek import HF_GLM4_MOE, HF_GLM4_MOE_STACKED
from attention_bridge.weights.layouts.hf_mixtral import HF_MINIMAX_M2, HF_MINIMAX_M2_STACKED

# Fields of MiniMax M2's files that the reference does not read.
MINIMAX = (
    "attn_type_list",
    "layernorm_full_attention_beta",
    "layernorm_linear_attention_beta",
    "layernorm_mlp_beta",
    "max_model_len",
    "mlp_intermediate_size",
    "mtp_transformer_layers",
    "num_mtp_modules",
    "qk_norm_type",
    "use_mtp",
)


def read_glm4_moe(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GLM-4.5 configuration (Zeng et al. 2025)."""
    fields.raw("num_mtp_layers")  # layers for multi-token prediction, which are not read
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=fields.flag("attention_bias", False),
        qk_norm=fields.flag("use_qk_norm", False),
        norm_eps=fields.number("rms_norm_eps"),
    )
    num_layers = fields.layers("num_hidden_layers")
    rotary_dim = int(heads.head_dim * rotary_share(fields, 0.5))
    mixer = heads.mixer(rope(fields, rotary_dim, head_dim=heads.head_dim))
    return _deepseek_moe(fields, tensors, heads, [mixer] * num_layers)


def read_dots1(fields: Fields, tensors: Tensors) -> Reading:
    """Read a dots.llm1 configuration (Huo et al. 2025): normalised queries and keys, windows in the last layers."""
    bias = fields.flag("attention_bias", False)
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        norm_eps=fields.number("rms_norm_eps"),
    )
    num_layers = fields.layers("num_hidden_layers")
    window, first = fields.size("sliding_window", default=None), fields.whole("max_window_layers")
    plain = [WINDOWED if window is not None and n >= first else FULL for n in range(num_layers)]
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    position = rope(fields, heads.head_dim)
    mixers = [heads.mixer(position, window if kind == WINDOWED else None) for kind in kinds]
    return _deepseek_moe(fields, tensors, heads, mixers)


def read_minimax_m2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a MiniMax M2 configuration (MiniMax 2025): queries and keys normalised over all heads jointly."""
    for name, value in (
        ("scoring_func", "sigmoid"),
        ("shared_intermediate_size", 0),
        ("use_qk_norm", True),
        ("use_routing_bias", True),
    ):
        fields.only(name, value)
    fields.raw(*MINIMAX)
    sizes, norm = grouped_heads(fields), Part("rms_norm", {"eps": fields.number("rms_norm_eps")})
    head_dim = sizes["head_dim"]
    old = fields.size("rotary_dim", default=None)
    rotary_dim = int(head_dim * rotary_share(fields, 1.0 if old is None else old / head_dim))
    if old not in (None, rotary_dim):
        raise CheckpointError(
            f"{fields.source} must have rotary_dim of head_dim * partial_rotary_factor, "
            f"got {old} and {rotary_dim}"
        )
    position = rope(fields, rotary_dim, head_dim=head_dim)
    given = {**sizes, "bias": False, "eps": norm.arguments["eps"], "position": position}
    experts = mixture(fields, "SigmoidRouting", ffn_dim="intermediate_size")
    layer = layer_spec(Part("FullWidthQKNormAttention", given), experts, "pre", norm)
    layout = stored_layout(tensors, HF_MINIMAX_M2, HF_MINIMAX_M2_STACKED)
    num_layers = fields.layers("num_hidden_layers")
    return decoder(fields, [layer] * num_layers, without_prediction(layout, tensors, num_layers), norm=norm)


def _deepseek_moe(fields: Fields, tensors: Tensors, heads: Heads, mixers: list[Part]) -> Reading:
    """The reading of a decoder with the mixtures of experts of DeepSeek-V3 in all but its first layers."""
    experts = mixture(
        fields,
        "SigmoidRouting",
        experts=("n_routed_experts", "num_local_experts"),
        grouped=True,
        rule={
            "normalised": fields.flag("norm_topk_prob", True),
            "routed_scale": fields.number("routed_scaling_factor"),
        },
        shared_dim=fields.size("n_shared_experts") * fields.size("moe_intermediate_size"),
    )
    dense, first = gated_ffn(fields), fields.whole("first_k_dense_replace")
    layers = [
        layer_spec(mixer, dense if n < first else experts, "pre", heads.norm())
        for n, mixer in enumerate(mixers)
    ]
    layout = stored_layout(tensors, HF_GLM4_MOE, HF_GLM4_MOE_STACKED)
    return decoder(fields, layers, without_prediction(layout, tensors, len(layers)), norm=heads.norm())


FAMILIES = (
    Family("hf.glm4_moe", ("glm4_moe",), read_glm4_moe),
    Family("hf.glm4_moe", ("dots1",), read_dots1),
    Family("hf.minimax_m2", ("minimax_m2",), read_minimax_m2),
)
