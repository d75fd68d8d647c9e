"""Readers of encoders like BERT with rotary positions: Nomic BERT, Jina Embeddings v3, GTE."""

from __future__ import annotations

from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import masked_head, sequence_head, token_head
from attention_bridge.pretrained.families.readers.encoders import (
    BERT_MASKED,
    ROBERTA_HEADS,
    WORDS,
    encoder_sizes,
    has_pooler,
)
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_rope_bert import HF_GTE, HF_JINA_EMBEDDINGS_V3, HF_NOMIC_BERT

# Options of Nomic's own code, in files of before transformers had the model, and the values that it computes with.
NOMIC_OPTIONS: dict[str, tuple[object, ...]] = {
    "causal": (False,), "mlp_fc1_bias": (False,), "mlp_fc2_bias": (False,), "parallel_block": (False,),
    "prenorm": (False,), "qkv_proj_bias": (False,), "rotary_emb_fraction": (1.0, 1), "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,), "scale_attn_by_inverse_layer_idx": (False,), "scale_attn_weights": (True,),
    "use_rms_norm": (False, None),
}  # fmt: skip
NOMIC_HARMLESS = (
    "dense_seq_output", "fused_bias_fc", "fused_dropout_add_ln", "max_trained_positions", "pad_vocab_size_multiple",
    "parallel_block_tied_norm", "reorder_and_upcast_attn", "rotary_scaling_factor", "use_xentropy",
)  # fmt: skip


def read_nomic_bert(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Nomic BERT configuration (Nussbaum et al. 2024), in the names of transformers or in GPT-2's."""
    for name, accepted in NOMIC_OPTIONS.items():
        fields.only(name, *accepted)
    fields.raw(*NOMIC_HARMLESS)
    fields.raw("tie_word_embeddings")
    dim, heads = fields.dim_and_heads(("hidden_size", "n_embd"), ("num_attention_heads", "n_head"))
    head_dim = fields.size("head_dim", default=dim // heads)
    if head_dim != dim // heads:
        raise CheckpointError(
            f"{fields.source} must have a head_dim of hidden_size / num_attention_heads, {dim // heads}, got {head_dim}"
        )
    sizes = {
        "vocab_size": fields.size("vocab_size"),
        "embed_dim": dim,
        "num_heads": heads,
        "num_layers": fields.layers("num_hidden_layers", "n_layer"),
        "ffn_dim": fields.size("intermediate_size", "n_inner"),
        "activation": fields.word(
            "hidden_act", "activation_function", words={**ACTIVATIONS, "swiglu": "silu"}
        ),
        "norm_eps": fields.number("layer_norm_eps", "layer_norm_epsilon"),
        "num_types": fields.whole("type_vocab_size"),
    }
    return _encoder(fields, tensors, HF_NOMIC_BERT, sizes, gated=True, bias=False)


def read_jina_embeddings_v3(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Jina Embeddings v3 configuration (Sturua et al. 2024), without its LoRA adapters."""
    sizes = {**encoder_sizes(fields), "num_types": fields.size("type_vocab_size")}
    return _encoder(fields, tensors, HF_JINA_EMBEDDINGS_V3, sizes)


def read_gte(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GTE configuration (Zhang et al. 2024)."""
    sizes = {**encoder_sizes(fields), "num_types": fields.whole("type_vocab_size")}
    return _encoder(fields, tensors, HF_GTE, sizes, gated=True)


def _encoder(
    fields: Fields, tensors: Tensors, layout: Layout, sizes: dict[str, Any], **options: Any
) -> Reading:
    """An encoder with rotary positions instead of position embeddings."""
    fields.size("max_position_embeddings", "n_positions", default=None)  # training length
    position = rope(fields, sizes["embed_dim"] // sizes["num_heads"])
    pooler = has_pooler(tensors, "pooler.dense.weight")
    return Reading(
        model("Encoder", **sizes, max_len=None, position=position, pooler=pooler, **options), layout
    )


CLASSIFIERS = (
    sequence_head("classifier", hidden="pooler.dense", activation="tanh"),
    token_head("classifier"),
)
NOMIC_HEADS = (
    masked_head(
        f"{BERT_MASKED}.transform.dense",
        f"{BERT_MASKED}.transform.layer_norm",
        f"{BERT_MASKED}.bias",
        f"{BERT_MASKED}.decoder",
        WORDS,
    ),
    *CLASSIFIERS,
)
GTE_HEADS = (
    masked_head(
        "lm_head.dense", "lm_head.norm", "lm_head.decoder.bias", "lm_head.decoder", WORDS, activation="gelu"
    ),
    *CLASSIFIERS,
)
FAMILIES = (
    Family("hf.nomic_bert", ("nomic_bert",), read_nomic_bert, NOMIC_HEADS),
    Family("hf.jina_embeddings_v3", ("jina_embeddings_v3",), read_jina_embeddings_v3, ROBERTA_HEADS),
    Family("hf.gte", ("gte",), read_gte, GTE_HEADS),
)
