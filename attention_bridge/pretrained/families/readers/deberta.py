"""Readers of DeBERTa 1, 2 and 3: disentangled attention with distance embeddings that all layers share."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
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
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_deberta import HF_DEBERTA
from attention_bridge.weights.layouts.hf_deberta_v2 import HF_DEBERTA_V2

TERMS = ("c2p", "p2c")


def read_deberta_v2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of DeBERTa 2 or 3 (He et al. 2021; He, Gao & Chen 2021)."""
    fields.raw("legacy")  # the tensors show which head there is
    eps, buckets = fields.number("layer_norm_eps"), fields.whole("position_buckets", default=-1, least=-1)
    norms = [word.strip() for word in _word(fields, "norm_rel_ebd", "none").lower().split("|")]
    if unknown := {*norms} - {"none", "layer_norm"}:
        raise CheckpointError(
            f"{fields.source} must have norm_rel_ebd none or layer_norm, got {shown(unknown.pop())}"
        )
    distances = {
        "num_buckets": buckets if buckets > 0 else None,
        "norm_eps": eps if "layer_norm" in norms else None,
    }
    fields.only("conv_kernel_size", 0)
    fields.raw("conv_act", "conv_groups")
    return Reading(_encoder(fields, distances, fields.flag("share_att_key", False)), HF_DEBERTA_V2)


def read_deberta(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of DeBERTa 1 (He et al. 2020), with a bucket for each distance."""
    fields.raw("legacy")  # the tensors show which head there is
    fields.only("talking_head", False)
    return Reading(_encoder(fields, {"num_buckets": None, "norm_eps": None}, share=False), HF_DEBERTA)


def _encoder(fields: Fields, distances: dict[str, Any], share: bool) -> Part:
    """Describe the encoder.

    Args:
        fields: the configuration.
        distances: arguments of the distance embeddings, without `max_distance`.
        share: whether distance embeddings use the projections of the content.
    """
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    fields.only("embedding_size", dim)
    fields.only("pooler_hidden_size", dim)
    fields.only("attention_head_size", dim // heads)
    fields.raw("pooler_dropout", "cls_dropout", "pooler_hidden_act", "tie_word_embeddings")
    terms, positions = _terms(fields), fields.size("max_position_embeddings")
    most = fields.whole("max_relative_positions", least=-1)
    norm = Part("layer_norm", {"eps": fields.number("layer_norm_eps")})
    mixer = Part(
        "MultiHeadSelfAttention",
        {"num_heads": heads, "scale": ((1 + len(terms)) * dim // heads) ** -0.5},
    )
    shared = {}
    if fields.flag("relative_attention", False):
        if not terms:
            raise CheckpointError(
                f"{fields.source} must have a pos_att_type for relative_attention, c2p or p2c, got none"
            )
        shared["position"] = Part(
            "DistanceEmbedding",
            {"embed_dim": dim, "max_distance": most if most > 0 else positions, **distances},
        )
        kinds = {"terms": terms, "shares_embedding": True, "share_projections": share}
        mixer = Part("DisentangledSelfAttention", {"num_heads": heads, **kinds})
    elif distances["norm_eps"] is not None:
        fields.only("norm_rel_ebd", "none")
    activation = fields.word("hidden_act", words=ACTIVATIONS)
    ffn = Part("FeedForward", {"ffn_dim": fields.size("intermediate_size"), "activation": activation})
    spec = model_spec(
        fields.size("vocab_size"),
        dim,
        [layer_spec(mixer, ffn, "post", norm)] * fields.layers("num_hidden_layers"),
        norm=None,
        embedding_norm=norm,
        num_types=fields.whole("type_vocab_size") or None,
        max_len=positions if fields.flag("position_biased_input", True) else None,
        is_causal=False,
        **shared,
    )
    return language_model(spec)


def _terms(fields: Fields) -> tuple[str, ...]:
    """The kinds of position scores, from a list or from words with bars between them."""
    given = fields.raw("pos_att_type", default=[])
    words = [word.strip() for word in given.lower().split("|")] if isinstance(given, str) else given
    if not isinstance(words, list) or any(word not in TERMS for word in words) or len(words) > len({*words}):
        raise CheckpointError(f"{fields.source} must have a pos_att_type of c2p and p2c, got {shown(given)}")
    return tuple(term for term in TERMS if term in words)


def _word(fields: Fields, name: str, default: str) -> str:
    value = fields.raw(name, default=default)
    if not isinstance(value, str):
        raise CheckpointError(f"{fields.source} must have a word {name}, got {shown(value)}")
    return value


WORDS = "embeddings.word_embeddings.weight"
PREDICTIONS, NEW_PREDICTIONS = "cls.predictions", "lm_predictions.lm_head"
LEGACY_MASKED = masked_head(
    f"{PREDICTIONS}.transform.dense",
    f"{PREDICTIONS}.transform.LayerNorm",
    f"{PREDICTIONS}.bias",
    f"{PREDICTIONS}.decoder",
    WORDS,
)


def _pooler(fields: Fields) -> dict[str, Any]:
    """The arguments of the hidden layer of a classifier."""
    return {"activation": fields.word("pooler_hidden_act", words=ACTIVATIONS)}


HEADS = (
    LEGACY_MASKED,
    masked_head(
        f"{NEW_PREDICTIONS}.dense",
        f"{NEW_PREDICTIONS}.LayerNorm",
        f"{NEW_PREDICTIONS}.bias",
        f"{NEW_PREDICTIONS}.decoder",
        WORDS,
    ),
    sequence_head("classifier", hidden=Hidden("pooler.dense", options=_pooler)),
    token_head("classifier"),
    question_head(),
)

FAMILIES = (
    Family("hf.deberta", ("deberta",), read_deberta, HEADS),
    Family("hf.deberta_v2", ("deberta-v2",), read_deberta_v2, HEADS),
)
