"""Reader of ELECTRA: an encoder like BERT, with narrow embeddings, which finds replaced tokens."""

from __future__ import annotations

from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import masked_head, question_head, sequence_head, token_head
from attention_bridge.pretrained.families.readers.encoders import WORDS, encoder_sizes
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_electra import HF_ELECTRA

CHOICE = sequence_head(
    "classifier", hidden="sequence_summary.summary", activation="gelu", classes=("ForMultipleChoice",)
)


def read_electra(fields: Fields, tensors: Tensors) -> Reading:
    """Read an ELECTRA configuration (Clark et al. 2020)."""
    sizes, token_dim = encoder_sizes(fields), fields.size("embedding_size")
    fields.raw("summary_last_dropout")
    return Reading(
        model(
            "Encoder",
            **sizes,
            max_len=fields.size("max_position_embeddings"),
            num_types=fields.size("type_vocab_size"),
            token_dim=None if token_dim == sizes["embed_dim"] else token_dim,
            pooler=False,
        ),
        HF_ELECTRA,
    )


def choice(fields: Fields, tensors: Tensors) -> Part:
    """Describe the head for multiple choice, whose summary must be the first token."""
    for name, value in (
        ("summary_type", "first"),
        ("summary_use_proj", True),
        ("summary_activation", "gelu"),
    ):
        fields.only(name, value)
    return CHOICE.part(fields, tensors)


HEADS = (
    token_head(
        "discriminator_predictions.dense_prediction",
        hidden="discriminator_predictions.dense",
        classes=("ForPreTraining",),
    ),
    masked_head(
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head.bias",
        "generator_lm_head",
        WORDS,
        activation="gelu",
    ),
    sequence_head(
        "classifier.out_proj",
        hidden="classifier.dense",
        activation="gelu",
        classes=("ForSequenceClassification",),
    ),
    replace(CHOICE, part=choice),
    token_head("classifier"),
    question_head(),
)
FAMILIES = (Family("hf.electra", ("electra",), read_electra, HEADS),)
