"""Readers of encoders: BERT, RoBERTa and its relatives, DistilBERT, ALBERT."""

from __future__ import annotations

from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import masked_head, question_head, sequence_head, token_head
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_albert import HF_ALBERT
from attention_bridge.weights.layouts.hf_bert import HF_BERT, HF_DISTILBERT
from attention_bridge.weights.layouts.hf_xlm_roberta_xl import HF_XLM_ROBERTA_XL

ROBERTAS = ("roberta", "xlm-roberta", "camembert")
XL = "xlm-roberta-xl"


def read_bert(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BERT configuration (Devlin et al. 2018) or a RoBERTa one (Liu et al. 2019; Conneau et al. 2019).

    RoBERTa's positions begin at `pad_token_id + 1` and do not count padding. XLM-RoBERTa XL (Goyal et al. 2021) has its
    norms before the sublayers.
    """
    sizes, first = encoder_sizes(fields), 0
    if fields.given.get("model_type") in (*ROBERTAS, XL, "longformer"):
        sizes["uncounted_token"] = fields.whole("pad_token_id", default=1)
        first = sizes["uncounted_token"] + 1
    positions = fields.size("max_position_embeddings")
    if positions <= first:
        raise CheckpointError(
            f"{fields.source} must have max_position_embeddings above pad_token_id + 1, "
            f"got {positions} and {first - 1}"
        )
    max_len = positions - first
    norm_first = fields.given.get("model_type") == XL
    options: dict[str, Any] = {"norm_first": True} if norm_first else {}
    types = fields.size("type_vocab_size")
    return Reading(
        model(
            "Encoder",
            **sizes,
            max_len=max_len,
            num_types=types,
            first_position=first,
            pooler=has_pooler(tensors, "pooler.dense.weight"),
            **options,
        ),
        HF_XLM_ROBERTA_XL if norm_first else HF_BERT,
    )


def read_albert(fields: Fields, tensors: Tensors) -> Reading:
    """Read an ALBERT configuration (Lan et al. 2019)."""
    fields.only("num_hidden_groups", 1)
    fields.only("inner_group_num", 1)
    fields.raw("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks", "layers_to_keep")
    return Reading(
        model(
            "Encoder",
            **encoder_sizes(fields),
            max_len=fields.size("max_position_embeddings"),
            num_types=fields.size("type_vocab_size"),
            token_dim=fields.size("embedding_size"),
            shared_layers=True,
            pooler=has_pooler(tensors, "pooler.weight"),
        ),
        HF_ALBERT,
    )


def read_distilbert(fields: Fields, tensors: Tensors) -> Reading:
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


def has_pooler(tensors: Tensors, theirs: str) -> bool:
    """Whether there is a pooler, by its name in the file or in a mirror."""
    return any(tensors.ends_with(name) for name in (theirs, "pooler.weight", "pooler.kernel"))


def encoder_sizes(fields: Fields) -> dict[str, Any]:
    """The sizes, activation and epsilon of an `Encoder`, from the fields of BERT."""
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


WORDS = "embeddings.word_embeddings.weight"
BERT_MASKED = "cls.predictions"
BERT_HEADS = (
    masked_head(
        f"{BERT_MASKED}.transform.dense",
        f"{BERT_MASKED}.transform.LayerNorm",
        f"{BERT_MASKED}.bias",
        f"{BERT_MASKED}.decoder",
        WORDS,
    ),
    sequence_head("classifier", hidden="pooler.dense", activation="tanh"),
    token_head("classifier"),
    question_head(),
    sequence_head(
        "cls.seq_relationship",
        hidden="pooler.dense",
        activation="tanh",
        classes=("ForNextSentencePrediction",),
    ),
)
ROBERTA_HEADS = (
    masked_head(
        "lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder", WORDS, activation="gelu"
    ),
    sequence_head(
        "classifier.out_proj",
        hidden="classifier.dense",
        activation="tanh",
        classes=("ForSequenceClassification",),
    ),
    sequence_head("classifier", hidden="pooler.dense", activation="tanh", classes=("ForMultipleChoice",)),
    token_head("classifier"),
    question_head(),
)
DISTILBERT_HEADS = (
    masked_head("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector", WORDS),
    sequence_head("classifier", hidden="pre_classifier", activation="relu"),
    token_head("classifier"),
    question_head(),
)
ALBERT_HEADS = (
    masked_head(
        "predictions.dense", "predictions.LayerNorm", "predictions.bias", "predictions.decoder", WORDS
    ),
    sequence_head("classifier", hidden="pooler", activation="tanh"),
    token_head("classifier"),
    question_head(),
)

FAMILIES = (
    Family("hf.bert", ("bert",), read_bert, BERT_HEADS),
    Family("hf.bert", ROBERTAS, read_bert, ROBERTA_HEADS),
    Family("hf.xlm_roberta_xl", (XL,), read_bert, ROBERTA_HEADS),
    Family("hf.distilbert", ("distilbert",), read_distilbert, DISTILBERT_HEADS),
    Family("hf.albert", ("albert",), read_albert, ALBERT_HEADS),
)
