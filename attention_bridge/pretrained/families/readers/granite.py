"""Reader of Granite 3: Llama with factors on embeddings, residuals, scores and logits."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads, with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA


def read_granite(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Granite configuration (IBM 2024)."""
    bias, tied = fields.flag("attention_bias", False), fields.flag("tie_word_embeddings", False)
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        scale=fields.number("attention_multiplier"),
        norm_eps=fields.number("rms_norm_eps"),
    )
    ffn = {
        "ffn_dim": fields.size("intermediate_size"),
        "activation": fields.word("hidden_act", words=ACTIVATIONS),
        "bias": fields.flag("mlp_bias", False),
    }
    mixer = heads.mixer(rope(fields, heads.head_dim))
    fields.size("max_position_embeddings", default=None)
    layer = layer_spec(
        mixer,
        Part("GatedFeedForward", ffn),
        "pre",
        heads.norm(),
        residual_scale=fields.number("residual_multiplier"),
    )
    spec = model_spec(
        fields.size("vocab_size"),
        heads.embed_dim,
        [layer] * fields.layers("num_hidden_layers"),
        norm=heads.norm(),
        embed_scale=fields.number("embedding_multiplier"),
        logit_scale=1.0 / fields.number("logits_scaling"),
        tied=tied,
    )
    layout = with_tied(HF_LLAMA, tied, "lm_head.weight", "model.embed_tokens.weight")
    return Reading(language_model(spec), layout)


FAMILIES = (Family("hf.llama", ("granite",), read_granite),)
