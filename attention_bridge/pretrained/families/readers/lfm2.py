"""Reader of LFM2: gated short convolutions among layers of attention with normalised queries and keys."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, by_layer, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import LARGEST, Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_lfm2 import HF_LFM2

CONV = "conv"


def read_lfm2(fields: Fields, tensors: Tensors) -> Reading:
    """Read an LFM2 configuration (Liquid AI 2025)."""
    num_layers = fields.layers("num_hidden_layers")
    full = fields.raw("full_attn_idxs", default=list(range(num_layers)))
    if not isinstance(full, list | tuple):
        raise CheckpointError(f"{fields.source} must have a list of layers full_attn_idxs, got {shown(full)}")
    given = fields.raw("layer_types", default=[FULL if n in full else CONV for n in range(num_layers)])
    heads = Heads(
        fields.size("hidden_size"), **grouped_heads(fields), qk_norm=True, norm_eps=fields.number("norm_eps")
    )
    mixers = {
        FULL: heads.mixer(rope(fields, heads.head_dim)),
        CONV: Part(
            "GatedShortConvolution",
            {"conv_width": fields.size("conv_L_cache"), "bias": fields.flag("conv_bias", False)},
        ),
    }
    ffn = Part("GatedFeedForward", {"ffn_dim": _ffn_dim(fields), "activation": "silu", "bias": False})
    kinds = layer_types(fields, num_layers, given, (FULL, CONV))
    layers = [layer_spec(mixers[kind], ffn, "pre", heads.norm()) for kind in kinds]
    tied = fields.flag("tie_embedding", fields.flag("tie_word_embeddings", True))  # the older name wins
    fields.given = {**fields.given, "tie_word_embeddings": tied}
    for name in ("block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "conv_dim",
                 "conv_dim_out", "block_use_swiglu", "block_use_xavier_init", "conv_use_xavier_init",
                 "use_pos_enc", "theta"):  # fmt: skip
        fields.raw(name)  # in published files; the reference ignores them
    layout = by_layer(HF_LFM2, ["self_attn." if kind == FULL else "conv." for kind in kinds])
    return decoder(fields, layers, layout, norm=heads.norm())


def _ffn_dim(fields: Fields) -> int:
    """Hidden features of the feed-forward network: two thirds of the given ones, rounded up to a multiple."""
    dim = fields.size("block_ff_dim", default=fields.size("intermediate_size"))
    factor = fields.number("block_ffn_dim_multiplier", default=None)
    multiple = fields.size("block_multiple_of")
    if not fields.flag("block_auto_adjust_ff_dim", True):
        return dim
    dim = int(2 * dim / 3)
    if factor is not None:
        dim = multiple * -(-int(factor * dim) // multiple)
    if not 0 < dim <= LARGEST:
        raise CheckpointError(
            f"{fields.source} must have a block_ffn_dim_multiplier that gives 1 to {LARGEST} features, got {factor}"
        )
    return dim


FAMILIES = (Family("hf.lfm2", ("lfm2",), read_lfm2),)
