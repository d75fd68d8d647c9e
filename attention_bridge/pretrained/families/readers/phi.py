"""Readers of Phi: 1, 1.5 and 2 with parallel sublayers, one norm and biases; 3 and 4 like Llama with fused tensors.

Rotary positions cover a part of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads, with_tied
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import ORIGINAL, rope, rotary_share
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_phi import HF_PHI, HF_PHI3


def read_phi(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Phi 1, 1.5 or 2 (Gunasekar et al. 2023; Li et al. 2023)."""
    tied, eps = fields.flag("tie_word_embeddings", False), fields.number("layer_norm_eps")
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), qkv_bias=True, out_bias=True)
    mixer = heads.mixer(_position(fields, heads.head_dim, 0.5))
    if fields.flag("qk_layernorm", False):
        norms = dict.fromkeys(("q_norm", "k_norm"), Part("layer_norm", {"dim": heads.head_dim, "eps": eps}))
        mixer = replace(mixer, arguments={**mixer.arguments, **norms})
    fields.size("max_position_embeddings", default=None)
    activation = fields.word("hidden_act", words=ACTIVATIONS)
    ffn = Part("FeedForward", {"ffn_dim": fields.size("intermediate_size"), "activation": activation})
    norm = Part("layer_norm", {"eps": eps})
    layer = layer_spec(mixer, ffn, "parallel_shared_norm", norm)
    spec = model_spec(
        fields.size("vocab_size"),
        heads.embed_dim,
        [layer] * fields.layers("num_hidden_layers"),
        norm=norm,
        head_bias=True,
        tied=tied,
    )
    layout = with_tied(HF_PHI, tied, "lm_head.weight", "model.embed_tokens.weight")
    return Reading(language_model(spec), layout)


def read_phi3(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Phi 3, 3.5-mini, 4 or 4-mini (Abdin et al. 2024)."""
    for name in ("rope_parameters", "rope_scaling"):
        given = fields.given.get(name)
        if isinstance(given, Mapping) and given.get("rope_type", given.get("type")) in OLD_NAMES:
            fields.given = {**fields.given, name: {**given, "rope_type": "longrope"}}
    for name in (
        ORIGINAL,
        "attention_bias",
        "mlp_bias",
        "lm_head_bias",
        "full_attn_mod",
        "interpolate_factor",
    ):
        fields.raw(name)
    sizes = grouped_heads(fields)
    heads = Heads(fields.size("hidden_size"), **sizes, norm_eps=fields.number("rms_norm_eps"))
    mixer = heads.mixer(_position(fields, heads.head_dim, 1.0), fields.size("sliding_window", default=None))
    layer = layer_spec(mixer, gated_ffn(fields), "pre", heads.norm())
    reading = decoder(fields, [layer] * fields.layers("num_hidden_layers"), HF_PHI3, norm=heads.norm())
    return replace(reading, axes={"g": 1, "d": heads.num_kv_heads * heads.head_dim})


def _position(fields: Fields, head_dim: int, share: float) -> Part:
    """The rotary embedding of a share of a head's features."""
    return rope(fields, int(head_dim * rotary_share(fields, share)), head_dim=head_dim)


OLD_NAMES = ("su", "yarn")  # of LongRoPE in Phi 3
HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.phi", ("phi",), read_phi, HEADS),
    Family("hf.phi3", ("phi3",), read_phi3, HEADS),
)
