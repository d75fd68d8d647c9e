"""Reader of ESM-2: a pre-norm encoder of proteins, with rotary positions and scaled embeddings."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import masked_head, sequence_head, token_head
from attention_bridge.pretrained.families.readers.encoders import WORDS
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_esm import HF_ESM


def read_esm(fields: Fields, tensors: Tensors) -> Reading:
    """Read an ESM-2 configuration (Lin et al. 2023); ESM-1b, with position embeddings, is refused."""
    fields.only("position_embedding_type", "rotary")
    fields.only("is_folding_model", False, None)
    fields.raw("hidden_act", "max_position_embeddings", "vocab_list", "esmfold_config", "tie_word_embeddings")
    dim, num_heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    vocab_size = fields.size("vocab_size")
    options: dict[str, Any] = {}
    norm = Part("layer_norm", {"eps": fields.number("layer_norm_eps")})
    if fields.raw("token_dropout") is not None and fields.flag("token_dropout", False):
        options["mask_token"] = fields.whole("mask_token_id", most=vocab_size - 1)
    if fields.raw("emb_layer_norm_before") is not None and fields.flag("emb_layer_norm_before", False):
        options["embedding_norm"] = norm
    fields.raw("mask_token_id")
    position = Part(
        "RotaryEmbedding",
        {"head_dim": dim // num_heads, "base": fields.number("rope_theta", default=10000.0)},
    )
    mixer = Part("MultiHeadSelfAttention", {"num_heads": num_heads, "position": position})
    ffn = Part("FeedForward", {"ffn_dim": fields.size("intermediate_size"), "activation": "gelu"})
    layers = [layer_spec(mixer, ffn, "pre", norm) for _ in range(fields.layers("num_hidden_layers"))]
    spec = model_spec(vocab_size, dim, layers, norm=norm, is_causal=False, **options)
    return Reading(language_model(spec), HF_ESM)


HEADS = (
    masked_head(
        "lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder", WORDS, activation="gelu"
    ),
    sequence_head(
        "classifier.out_proj",
        hidden="classifier.dense",
        activation="tanh",
        classes=("ForSequenceClassification",),
    ),
    token_head("classifier"),
)
FAMILIES = (Family("hf.esm", ("esm",), read_esm, HEADS),)
