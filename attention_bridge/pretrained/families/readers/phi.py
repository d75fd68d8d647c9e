"""Reader of Phi 1, 1.5 and 2: parallel sublayers with one norm, partial rotary positions, biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import grouped_heads, with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_phi import HF_PHI


def read_phi(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Phi 1, 1.5 or 2 (Gunasekar et al. 2023; Li et al. 2023)."""
    tied, eps = fields.flag("tie_word_embeddings", False), fields.number("layer_norm_eps")
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), qkv_bias=True, out_bias=True)
    share = fields.number("partial_rotary_factor", default=0.5)
    share = parameters(fields).number("partial_rotary_factor", default=share)
    if share > 1.0:
        raise CheckpointError(f"{fields.source} must have a partial_rotary_factor of at most 1, got {share}")
    mixer = heads.mixer(rope(fields, int(heads.head_dim * share), head_dim=heads.head_dim))
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


FAMILIES = (Family("hf.phi", ("phi",), read_phi, decoder_heads("score")),)
