"""The model type of a configuration that does not name it: by its architecture, its fields or the tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

TIMM = "timm.vit"  # configurations of timm have an architecture and no model type

# Ends of tensor names that only one family has, the most particular ones first.
SIGNS = (
    ("albert_layer_groups.0.albert_layers.0.ffn.weight", "albert"),
    ("attention.q_lin.weight", "distilbert"),
    ("kv_a_proj_with_mqa.weight", "deepseek_v3"),
    ("SelfAttention.relative_attention_bias.weight", "t5"),
    ("encoder.conv1.weight", "whisper"),
    ("layernorm_embedding.weight", "bart"),
    ("visual_projection.weight", "clip"),
    ("patch_embeddings.projection.weight", "vit"),
    ("word_embeddings_layernorm.weight", "bloom"),
    ("attn.c_attn.weight", "gpt2"),
    ("embed_in.weight", "gpt_neox"),
    ("attention.self.query.weight", "bert"),
)

# Architectures whose names differ from their model types.
STEMS = {
    "hunyuandensev1": "hunyuanv1dense",
    "hunyuanmoev1": "hunyuanv1moe",
    "marianmt": "marian",
}


def model_type_of(given: Mapping[str, Any], names: Collection[str], known: Collection[str]) -> str | None:
    """The model type of a configuration without one; None if nothing decides it.

    Args:
        given: the configuration.
        names: names of the checkpoint's tensors.
        known: all model types.
    """
    architectures = given.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(name, str):
        return _of_architecture(name, "text_config" in given, known)
    if isinstance(given.get("architecture"), str):
        return TIMM
    if {"dim", "n_heads"} <= given.keys():
        return "meta.llama"
    found = next((kind for end, kind in SIGNS if any(each.endswith(end) for each in names)), None)
    if found == "bert" and (
        given.get("type_vocab_size") == 1 or any(x.startswith("roberta.") for x in names)
    ):
        return "roberta"  # it has the same names as BERT, and one token type
    return found


def _of_architecture(name: str, is_multimodal: bool, known: Collection[str]) -> str | None:
    stem = re.sub(r"(LMHead|Text)?(Model|For[A-Z]\w*)$", "", name).lower().replace("_", "")
    stem = STEMS.get(stem, stem)
    # Gemma 3 is a text model and a multimodal model, whose configuration holds its text model's.
    kinds = [kind for kind in known if kind.endswith("_text") is not is_multimodal]
    return {re.sub("[_-]", "", kind).removesuffix("text").lower(): kind for kind in (*known, *kinds)}.get(
        stem
    )
