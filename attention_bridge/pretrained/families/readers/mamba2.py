"""Readers of Mamba-2 and of its hybrids with attention: Bamba and Granite 4."""

from __future__ import annotations

import math
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import (
    FULL,
    LINEAR,
    by_layer,
    grouped_heads,
    layer_types,
    with_tied,
)
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.expert_reading import mixture
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_mamba2 import (
    HF_BAMBA,
    HF_GRANITE_HYBRID,
    HF_GRANITE_HYBRID_MOE,
    HF_MAMBA2,
)

OF_MAMBA2 = {
    "num_heads": "num_heads", "head_dim": "head_dim", "num_groups": "n_groups", "state_dim": "state_size",
    "conv_width": "conv_kernel", "expand": "expand", "chunk_size": "chunk_size", "bias": "use_bias",
    "conv_bias": "use_conv_bias",
}  # fmt: skip
OF_HYBRIDS = {
    "num_heads": "mamba_n_heads", "head_dim": "mamba_d_head", "num_groups": "mamba_n_groups",
    "state_dim": "mamba_d_state", "conv_width": "mamba_d_conv", "expand": "mamba_expand",
    "chunk_size": "mamba_chunk_size", "bias": "mamba_proj_bias", "conv_bias": "mamba_conv_bias",
}  # fmt: skip


def read_mamba2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Mamba-2 configuration (Dao & Gu 2024): layers without feed-forward networks."""
    eps, tied = fields.number("layer_norm_epsilon"), fields.flag("tie_word_embeddings", False)
    for name in ("time_step_min", "time_step_max", "time_step_floor", "time_step_rank"):  # for training
        fields.raw(name)
    for name in ("residual_in_fp32", "rescale_prenorm_residual"):
        fields.flag(name, False)
    norm = Part("rms_norm", {"eps": eps})
    layer = layer_spec(mamba2(fields, OF_MAMBA2, eps=eps), None, "pre", norm)
    dim, layers = fields.size("hidden_size"), fields.layers("num_hidden_layers")
    spec = model_spec(fields.size("vocab_size"), dim, [layer] * layers, norm=norm, tied=tied)
    return Reading(
        language_model(spec), with_tied(HF_MAMBA2, tied, "lm_head.weight", "backbone.embeddings.weight")
    )


def read_bamba(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Bamba configuration (IBM, Princeton, CMU & UIUC 2024)."""
    for name in ("num_logits_to_keep", "z_loss_coefficient", "partial_rotary_factor"):
        fields.raw(name)  # the reference always rotates the same share
    eps, num_layers = fields.number("rms_norm_eps"), fields.layers("num_hidden_layers")
    full = fields.raw("attn_layer_indices", default=())
    if not isinstance(full, list | tuple):
        raise CheckpointError(
            f"{fields.source} must have a list of layers attn_layer_indices, got {shown(full)}"
        )
    sizes, bias = grouped_heads(fields), fields.flag("attention_bias", False)
    share = parameters(fields).number("partial_rotary_factor", default=0.5)
    position = rope(fields, int(sizes["head_dim"] * share), head_dim=sizes["head_dim"])
    heads = Heads(fields.size("hidden_size"), **sizes, qkv_bias=bias, out_bias=bias, norm_eps=eps)
    recurrent = mamba2(fields, OF_HYBRIDS, eps=eps)
    mixers = [heads.mixer(position) if n in full else recurrent for n in range(num_layers)]
    ffn = gated_ffn(fields, bias=fields.flag("mlp_bias", False))
    layers = [layer_spec(mixer, ffn, "pre", heads.norm()) for mixer in mixers]
    layout = by_layer(HF_BAMBA, ["self_attn." if n in full else "mamba." for n in range(num_layers)])
    return decoder(fields, layers, layout, norm=heads.norm())


def read_granite_hybrid(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Granite 4 configuration (IBM 2025), with or without experts beside the shared network."""
    eps, num_layers = fields.number("rms_norm_eps"), fields.layers("num_hidden_layers")
    sizes, bias = grouped_heads(fields), fields.flag("attention_bias", False)
    heads = Heads(
        fields.size("hidden_size"),
        **sizes,
        qkv_bias=bias,
        out_bias=bias,
        scale=fields.number("attention_multiplier"),
        norm_eps=eps,
    )
    turned = fields.word("position_embedding_type", words={"rope": True, "nope": False}, default=False)
    position = rope(fields, heads.head_dim)
    given = fields.raw("layer_types", "layers_block_type", default=[LINEAR] * num_layers)
    mixers = {
        FULL: heads.mixer(position if turned else None),
        LINEAR: mamba2(fields, OF_HYBRIDS, eps=eps),
    }
    ffn, layout = _granite_network(fields)
    scale = fields.number("residual_multiplier")
    kinds = layer_types(fields, num_layers, _renamed(given), (LINEAR, FULL))
    layers = [layer_spec(mixers[kind], ffn, "pre", heads.norm(), residual_scale=scale) for kind in kinds]
    return decoder(
        fields,
        layers,
        by_layer(layout, ["self_attn." if kind == FULL else "mamba." for kind in kinds]),
        norm=heads.norm(),
        embed_scale=fields.number("embedding_multiplier"),
        logit_scale=1.0 / fields.number("logits_scaling"),
    )


def _granite_network(fields: Fields) -> tuple[Part, Layout]:
    """The feed-forward network of each layer of Granite 4, with its experts if there are any, and the layout."""
    width, activation = fields.size("shared_intermediate_size"), fields.word("hidden_act", words=ACTIVATIONS)
    if fields.whole("num_local_experts"):
        experts = mixture(
            fields,
            "SoftmaxRouting",
            ffn_dim="intermediate_size",
            experts=("num_local_experts",),
            shared_dim=width,
        )
        return experts, HF_GRANITE_HYBRID_MOE
    fields.raw("intermediate_size", "num_experts_per_tok")  # of the experts
    return Part(
        "GatedFeedForward", {"ffn_dim": width, "activation": activation, "bias": False}
    ), HF_GRANITE_HYBRID


def mamba2(fields: Fields, names: dict[str, str], *, eps: float, inner: str | None = None) -> Part:
    """The `Mamba2` layer of a configuration.

    Args:
        fields: the configuration, with `hidden_size` and `hidden_act`.
        names: names of its fields, by the arguments of `Mamba2`, and `expand`.
        eps: added to the mean square in the output norm.
        inner: name of a field with the features of all heads; None for `hidden_size * expand`, as without the field.

    Raises:
        CheckpointError: the sizes contradict each other, or a choice has no equal in `Mamba2`.
    """
    fields.only("hidden_act", "silu")
    limit = fields.raw("time_step_limit", default=[0.0, math.inf])
    if limit not in ([0.0, math.inf], (0.0, math.inf), [0.0, {"__float__": "Infinity"}]) or limit[0] is False:
        raise CheckpointError(
            f"{fields.source} must have a time_step_limit from 0 to infinity, got {shown(limit)}"
        )
    fields.size(names["chunk_size"], default=None)  # the results are the same for any
    features = fields.size("hidden_size") * fields.size(names["expand"])
    features = features if inner is None else fields.size(inner, default=features)
    heads = fields.size(names["num_heads"])
    if fields.raw(names["head_dim"]) in (None, "auto"):
        fields.divides(inner or names["expand"], features, names["num_heads"], heads)
        head_dim = features // heads
    else:
        head_dim = fields.size(names["head_dim"])
    if heads * head_dim != features:
        raise CheckpointError(
            f"{fields.source} must have {names['num_heads']} * {names['head_dim']} of {features} features, "
            f"got {heads} * {head_dim}"
        )
    groups = fields.size(names["num_groups"])
    fields.divides(names["num_heads"], heads, names["num_groups"], groups)
    arguments: dict[str, Any] = {
        "num_heads": heads,
        "head_dim": head_dim,
        "state_dim": fields.size(names["state_dim"]),
        "num_groups": groups,
        "conv_width": fields.size(names["conv_width"]),
        "bias": fields.flag(names["bias"], False),
        "conv_bias": fields.flag(names["conv_bias"], True),
        "eps": eps,
    }
    return Part("Mamba2", arguments)


def _renamed(kinds: Any) -> Any:
    """The kinds of layers with the names of today."""
    older = {"mamba": LINEAR, "attention": FULL}
    if not isinstance(kinds, list):
        return kinds
    return [older.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.mamba2", ("mamba2",), read_mamba2),
    Family("hf.bamba", ("bamba",), read_bamba),
    Family("hf.granite_hybrid", ("granitemoehybrid",), read_granite_hybrid),
)
