"""Reader of GPT-1: norms after the residual additions, and no final norm."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_openai_gpt import HF_OPENAI_GPT

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


def read_gpt(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of the first GPT (Radford et al. 2018)."""
    tied = fields.flag("tie_word_embeddings", True)
    dim, heads = fields.dim_and_heads(("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    mixer = Heads(dim, heads, heads, dim // heads, qkv_bias=True, out_bias=True).mixer(None)
    ffn = Part("FeedForward", {"ffn_dim": 4 * dim, "activation": fields.word("afn", words=ACTIVATIONS)})
    norm = Part("layer_norm", {"eps": fields.number("layer_norm_epsilon")})
    layers = [layer_spec(mixer, ffn, "post", norm)] * fields.layers("n_layer", "num_hidden_layers")
    max_len = fields.size("n_positions", "max_position_embeddings")
    spec = model_spec(fields.size("vocab_size"), dim, layers, norm=None, max_len=max_len, tied=tied)
    layout = with_tied(HF_OPENAI_GPT, tied, "lm_head.weight", "transformer.tokens_embed.weight")
    return Reading(language_model(spec), layout)


FAMILIES = (Family("hf.openai_gpt", ("openai-gpt",), read_gpt, decoder_heads("score")[:1]),)
