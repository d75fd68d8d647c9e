"""Reader of Nemotron-H: layers of Mamba-2, of attention without positions, or of a feed-forward network alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, LINEAR, grouped_heads, with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.expert_reading import mixture
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, MOST_LAYERS, Fields
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_mamba2 import HF_NEMOTRON_H, HF_NEMOTRON_H_STACKED
from attention_bridge.weights.rule import Rule

MLP, MOE = "mlp", "moe"
LETTERS = {"M": LINEAR, "*": FULL, "-": MLP, "E": MOE}
NAMES = {"mamba": LINEAR, "attention": FULL}  # of older files
# Fields that the reference ignores, and fields of the experts.
IGNORED = (
    "attention_bias", "expand", "mamba_expand", "mamba_proj_bias", "mamba_ssm_cache_dtype", "use_mamba_kernels",
    "mamba_dt_max", "mamba_dt_limit", "mamba_dt_init_floor", "time_step_max", "time_step_limit", "time_step_floor",
    "rescale_prenorm_residual", "residual_in_fp32", "sliding_window", "mtp_layers_block_type", "n_shared_experts",
    "mtp_hybrid_override_pattern", "moe_shared_expert_overlap", "num_hidden_layers", "num_logits_to_keep",
)  # fmt: skip
OF_EXPERTS = (
    "moe_latent_size", "n_routed_experts", "num_local_experts", "n_group", "moe_intermediate_size", "topk_group",
    "moe_shared_expert_intermediate_size", "num_experts_per_tok", "routed_scaling_factor", "norm_topk_prob",
)  # fmt: skip


def read_nemotron_h(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Nemotron-H configuration (NVIDIA 2025), whose experts may have latent features."""
    for name in IGNORED:
        fields.raw(name)
    fields.only("mamba_hidden_act", "silu")
    fields.size("chunk_size", "mamba_chunk_size", default=None)  # the results are the same for any
    fields.size("max_position_embeddings", default=None)  # there are no positions
    eps, tied = fields.number("layer_norm_epsilon"), fields.flag("tie_word_embeddings", False)
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), norm_eps=eps)
    num_heads, groups = fields.size("mamba_num_heads"), fields.size("mamba_n_groups", "n_groups")
    fields.divides("mamba_num_heads", num_heads, "n_groups", groups)
    mamba: dict[str, Any] = {
        "num_heads": num_heads,
        "head_dim": fields.size("mamba_head_dim"),
        "state_dim": fields.size("ssm_state_size"),
        "num_groups": groups,
        "conv_width": fields.size("mamba_d_conv", "conv_kernel"),
        "bias": fields.flag("use_bias", False),
        "conv_bias": fields.flag("mamba_conv_bias", fields.flag("use_conv_bias", True)),
        "min_step": fields.number("mamba_dt_min", "time_step_min", zero=True),
        "eps": eps,
    }
    ffn = {
        "ffn_dim": fields.size("intermediate_size"),
        "activation": fields.word("mlp_hidden_act", words=ACTIVATIONS),
        "bias": fields.flag("mlp_bias", False),
    }
    sublayers = {
        LINEAR: (Part("Mamba2", mamba), None),
        FULL: (heads.mixer(None), None),
        MLP: (None, Part("FeedForward", ffn)),
    }
    kinds = _kinds(fields)
    if MOE in kinds:
        sublayers[MOE] = (None, _experts(fields, ffn))
    else:
        fields.raw(*OF_EXPERTS)
    layers = [layer_spec(*sublayers[kind], "pre", heads.norm()) for kind in kinds]
    spec = model_spec(fields.size("vocab_size"), heads.embed_dim, layers, norm=heads.norm(), tied=tied)
    norms = [
        Rule(f"backbone.layers.{n}.norm.weight", f"layers.{n}.ffn_norm.weight")
        for n, kind in enumerate(kinds)
        if kind in (MLP, MOE)
    ]
    outputs = [
        Rule(f"backbone.layers.{n}.mixer.o_proj.weight", f"layers.{n}.attention.out_proj.weight")
        for n, kind in enumerate(kinds)
        if kind == FULL
    ]
    found = HF_NEMOTRON_H_STACKED if tensors.ends_with("experts.up_proj") else HF_NEMOTRON_H
    layout = replace(found, rules=(*norms, *outputs, *found.rules))
    return Reading(
        language_model(spec), with_tied(layout, tied, "lm_head.weight", "backbone.embeddings.weight")
    )


def _kinds(fields: Fields) -> list[str]:
    """The kind of each layer, of a list of names or of a text with a letter for each."""
    pattern = fields.raw("hybrid_override_pattern")
    given = fields.raw("layers_block_type", "layer_types", default=pattern)
    given = [LINEAR, MOE, FULL, MLP] if given is None else given
    known = LETTERS if isinstance(given, str) else NAMES
    names = given if isinstance(given, list | str) else []
    kinds = [known.get(each, each) if isinstance(each, str) else each for each in names]
    if not 0 < len(kinds) <= MOST_LAYERS or any(kind not in LETTERS.values() for kind in kinds):
        raise CheckpointError(
            f"{fields.source} must have layers_block_type {', '.join(LETTERS.values())} for each layer, "
            f"got {shown(given)}"
        )
    return kinds


def _experts(fields: Fields, ffn: dict[str, Any]) -> Part:
    """The mixture of experts, with the activation and the biases of the feed-forward network."""
    found = mixture(
        fields,
        "SigmoidRouting",
        experts=("n_routed_experts", "num_local_experts"),
        activation=False,
        grouped=True,
        rule={
            "normalised": fields.flag("norm_topk_prob", True),
            "routed_scale": fields.number("routed_scaling_factor"),
        },
        shared_dim=fields.size("moe_shared_expert_intermediate_size"),
    )
    latent = fields.size("moe_latent_size", default=None)
    return Part(
        "PlainMixtureOfExperts",
        {**found.arguments, "activation": ffn["activation"], "bias": ffn["bias"], "latent_dim": latent},
    )


FAMILIES = (Family("hf.nemotron_h", ("nemotron_h",), read_nemotron_h),)
