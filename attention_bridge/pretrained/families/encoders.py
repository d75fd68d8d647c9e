"""Readers of encoders: BERT, RoBERTa, DistilBERT, ALBERT."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.weights.layouts.hf_albert import HF_ALBERT
from attention_bridge.weights.layouts.hf_bert import HF_BERT, HF_DISTILBERT


def read_bert(fields: Fields, names: Collection[str]) -> Reading:
    """Read a BERT configuration (Devlin et al. 2018) or a RoBERTa one (Liu et al. 2019).

    RoBERTa's positions begin at `pad_token_id + 1`.
    """
    first = 0
    if fields.given.get("model_type") == "roberta":
        first = fields.whole("pad_token_id", default=1) + 1
    sizes = _sizes(fields)
    positions = fields.size("max_position_embeddings")
    if positions <= first:
        raise CheckpointError(
            f"{fields.source} must have max_position_embeddings above pad_token_id + 1, "
            f"got {positions} and {first - 1}"
        )
    max_len = positions - first
    types = fields.size("type_vocab_size")
    return Reading(
        model(
            "Encoder",
            **sizes,
            max_len=max_len,
            num_types=types,
            first_position=first,
            pooler=any(name.endswith("pooler.dense.weight") for name in names),
        ),
        HF_BERT,
    )


def read_albert(fields: Fields, names: Collection[str]) -> Reading:
    """Read an ALBERT configuration (Lan et al. 2019)."""
    fields.only("num_hidden_groups", 1)
    fields.only("inner_group_num", 1)
    fields.raw("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks", "layers_to_keep")
    return Reading(
        model(
            "Encoder",
            **_sizes(fields),
            max_len=fields.size("max_position_embeddings"),
            num_types=fields.size("type_vocab_size"),
            token_dim=fields.size("embedding_size"),
            shared_layers=True,
            pooler=any(name.endswith("pooler.weight") for name in names),
        ),
        HF_ALBERT,
    )


def read_distilbert(fields: Fields, names: Collection[str]) -> Reading:
    """Read a DistilBERT configuration (Sanh et al. 2019): no token types, no pooler."""
    dim, heads = fields.dim_and_heads(("dim",), ("n_heads",))
    fields.raw("tie_weights_", "tie_word_embeddings")
    return Reading(
        model(
            "Encoder",
            vocab_size=fields.size("vocab_size"),
            embed_dim=dim,
            num_heads=heads,
            num_layers=fields.layers("n_layers"),
            ffn_dim=fields.size("hidden_dim"),
            max_len=fields.size("max_position_embeddings"),
            num_types=0,
            activation=fields.word("activation", words=ACTIVATIONS),
            pooler=False,
        ),
        HF_DISTILBERT,
    )


def _sizes(fields: Fields) -> dict[str, Any]:
    fields.only("position_embedding_type", "absolute")
    fields.raw("tie_word_embeddings")
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    return {
        "vocab_size": fields.size("vocab_size"),
        "embed_dim": dim,
        "num_heads": heads,
        "num_layers": fields.layers("num_hidden_layers"),
        "ffn_dim": fields.size("intermediate_size"),
        "activation": fields.word("hidden_act", words=ACTIVATIONS),
        "norm_eps": fields.number("layer_norm_eps"),
    }


FAMILIES = (
    Family("hf.bert", ("bert", "roberta"), read_bert),
    Family("hf.distilbert", ("distilbert",), read_distilbert),
    Family("hf.albert", ("albert",), read_albert),
)
