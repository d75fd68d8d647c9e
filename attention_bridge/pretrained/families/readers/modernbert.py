"""Reader of ModernBERT: a pre-norm encoder with rotary positions, gates, and windows in two of three layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, layer_types
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import (
    Hidden,
    masked_head,
    question_head,
    sequence_head,
    token_head,
)
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_modernbert import HF_MODERNBERT

THETAS = {FULL: ("global_rope_theta", 160_000.0), WINDOWED: ("local_rope_theta", 10_000.0)}


def read_modernbert(fields: Fields, tensors: Tensors) -> Reading:
    """Read a ModernBERT configuration (Warner et al. 2024)."""
    dim, num_heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    num_layers, every = (
        fields.layers("num_hidden_layers"),
        fields.size("global_attn_every_n_layers", default=3),
    )
    kinds = fields.raw("layer_types", default=[WINDOWED if n % every else FULL for n in range(num_layers)])
    norm = Part("layer_norm", {"eps": fields.number("norm_eps"), "bias": fields.flag("norm_bias", False)})
    ffn = Part(
        "GatedFeedForward",
        {
            "ffn_dim": fields.size("intermediate_size"),
            "activation": fields.word("hidden_activation", words=ACTIVATIONS),
            "bias": fields.flag("mlp_bias", False),
        },
    )
    heads = {"num_heads": num_heads, "bias": fields.flag("attention_bias", False)}
    window = fields.whole("local_attention") // 2 + 1  # on each side, with the query's own key
    mixers = {
        FULL: Part("MultiHeadSelfAttention", {**heads, "position": _rope(fields, FULL, dim // num_heads)}),
        WINDOWED: Part(
            "SlidingWindowAttention",
            {**heads, "window": window, "position": _rope(fields, WINDOWED, dim // num_heads)},
        ),
    }
    layers = [
        layer_spec(mixers[kind], ffn, "pre" if n else "pre_feed_forward", norm)
        for n, kind in enumerate(layer_types(fields, num_layers, kinds, (FULL, WINDOWED)))
    ]
    fields.raw("max_position_embeddings", "position_embedding_type", "layer_norm_eps", "tie_word_embeddings")
    fields.raw(
        "classifier_pooling", "classifier_bias", "classifier_activation", "decoder_bias"
    )  # of the heads
    fields.raw("initializer_cutoff_factor", "embedding_dropout", "mlp_dropout", "deterministic_flash_attn")
    fields.raw("sparse_prediction", "sparse_pred_ignore_index", "reference_compile")  # training and kernels
    fields.raw("repad_logits_with_grad", "rope_theta", "rope_local_base_freq")
    spec = model_spec(fields.size("vocab_size"), dim, layers, norm=norm, embedding_norm=norm, is_causal=False)
    return Reading(language_model(spec), HF_MODERNBERT)


def _rope(fields: Fields, kind: str, head_dim: int) -> Part:
    """The rotary embedding of the layers of a kind; each kind has a base of its own."""
    name, theta = THETAS[kind]
    theta = fields.number(name, default=theta)
    given = fields.raw("rope_parameters", default={})
    if not isinstance(given, Mapping) or given.keys() - {FULL, WINDOWED}:
        raise CheckpointError(
            f"{fields.source} must have rope_parameters of {FULL} and {WINDOWED}, got {shown(given)}"
        )
    fields.only("rope_scaling", None)
    own = given.get(kind)
    if not isinstance(own, Mapping | None):
        raise CheckpointError(f"{fields.source} must have {kind} with names, got {shown(own)}")
    length = fields.raw("max_position_embeddings")
    parameters = {"rope_parameters": {"rope_theta": theta, **(own or {})}, "max_position_embeddings": length}
    return rope(Fields(parameters, fields.source), head_dim)


def _hidden(fields: Fields) -> dict[str, Any]:
    """The activation and the norm of a head's hidden layer."""
    return {**_transform(fields, "activation"), "hidden_bias": False, "hidden_norm": _head_norm(fields)}


def _transform(fields: Fields, *names: str) -> dict[str, Any]:
    """Arguments of a head's transform, which must have no biases."""
    fields.only("classifier_bias", False)
    fields.only("norm_bias", False)
    fields.only("decoder_bias", True)
    found = {
        "activation": fields.word("classifier_activation", words=ACTIVATIONS),
        "norm_eps": fields.number("norm_eps"),
    }
    return {name: found[name] for name in names or found}


def _head_norm(fields: Fields) -> Part:
    norm = {"dim": fields.size("hidden_size"), "eps": fields.number("norm_eps"), "bias": False}
    return Part("layer_norm", norm)


def _pooled(fields: Fields) -> dict[str, Any]:
    """The same for a classifier of sequences, with its pooling."""
    poolings: dict[str, dict[str, Any]] = {"cls": {}, "mean": {"pooling": Part("MeanPooling")}}
    return {**_hidden(fields), **fields.word("classifier_pooling", words=poolings)}


HIDDEN = Hidden("head.dense", norm="head.norm", options=_hidden)
HEADS = (
    masked_head(
        "head.dense",
        "head.norm",
        "decoder.bias",
        "decoder",
        "embeddings.tok_embeddings.weight",
        options=_transform,
    ),
    sequence_head("classifier", hidden=Hidden("head.dense", norm="head.norm", options=_pooled)),
    token_head("classifier", hidden=HIDDEN),
    question_head("classifier", hidden=HIDDEN),
)
FAMILIES = (Family("hf.modernbert", ("modernbert",), read_modernbert, HEADS),)
