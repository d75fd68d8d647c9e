"""Reader of RoFormer: an encoder like BERT whose queries and keys have rotary positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import masked_head, question_head, sequence_head, token_head
from attention_bridge.pretrained.families.readers.encoders import BERT_MASKED, WORDS, encoder_sizes
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_roformer import HF_ROFORMER, POSITIONS

# Largest deviation of a table of sines from its formula, also in an 8-bit dtype; another table deviates by more.
ROUNDING = 0.1
CHOICE = sequence_head("classifier", pooling="LastPosition", classes=("ForMultipleChoice",))


def read_roformer(fields: Fields, tensors: Tensors) -> Reading:
    """Read a RoFormer configuration (Su et al. 2021); rotated values are refused."""
    fields.only("rotary_value", False)
    sizes = encoder_sizes(fields)
    token_dim = fields.size("embedding_size", default=sizes["embed_dim"])
    head_dim = sizes["embed_dim"] // sizes["num_heads"]
    if head_dim % 2:
        raise CheckpointError(
            f"{fields.source} must rotate an even number of a head's features, got {head_dim}"
        )
    max_tokens = fields.size("max_position_embeddings")
    _check_sines(fields, tensors)
    return Reading(
        model(
            "Encoder",
            **sizes,
            max_len=None,
            max_tokens=max_tokens,
            num_types=fields.size("type_vocab_size"),
            token_dim=None if token_dim == sizes["embed_dim"] else token_dim,
            position=Part("RotaryEmbedding", {"head_dim": head_dim, "interleaved": True}),
            pooler=False,
        ),
        HF_ROFORMER,
    )


def _check_sines(fields: Fields, tensors: Tensors) -> None:
    """Raise unless the table of positions in the file, if there is one, holds the sines and cosines of its formula."""
    name = next((each for each in tensors if each.endswith(POSITIONS)), None)
    shape = None if name is None else tensors.shape(name)
    if name is None or tensors.read is None or shape is None or len(shape) != 2:
        return
    angles = np.arange(shape[0])[:, None] * 10000.0 ** (-2 * np.arange(shape[1] // 2) / shape[1])
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    given = tensors.read(tensors.spelled[name]).astype(np.float64)
    if given.shape != table.shape or not np.abs(given - table).max() <= ROUNDING:
        raise CheckpointError(
            f"{fields.source} must have the sines and cosines of base 10000 in {name}, got other values"
        )


def choice(fields: Fields, tensors: Tensors) -> Part:
    """Describe the head for multiple choice, whose summary must be the last position."""
    fields.only("summary_type", "last")
    fields.only("summary_use_proj", False, None)
    fields.only("summary_activation", None, "")
    return CHOICE.part(fields, tensors)


HEADS = (
    masked_head(
        f"{BERT_MASKED}.transform.dense",
        f"{BERT_MASKED}.transform.LayerNorm",
        f"{BERT_MASKED}.bias",
        f"{BERT_MASKED}.decoder",
        WORDS,
    ),
    sequence_head("classifier.out_proj", hidden="classifier.dense", classes=("ForSequenceClassification",)),
    token_head("classifier"),
    replace(CHOICE, part=choice),
    question_head(),
)
FAMILIES = (Family("hf.roformer", ("roformer",), read_roformer, HEADS),)
