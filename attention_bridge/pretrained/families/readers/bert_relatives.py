"""Readers of encoders that are BERT or RoBERTa with one change: BigBird, LayoutLM, Longformer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import Head, sequence_head, token_head
from attention_bridge.pretrained.families.readers.encoders import BERT_HEADS, ROBERTA_HEADS, read_bert
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_big_bird import HF_BIG_BIRD
from attention_bridge.weights.layouts.hf_layoutlm import HF_LAYOUTLM
from attention_bridge.weights.layouts.hf_longformer import HF_LONGFORMER


def read_layoutlm(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of LayoutLM 1 (Xu et al. 2019): BERT with boxes."""
    coordinates = fields.size("max_2d_position_embeddings")
    return _changed(read_bert(fields, tensors), HF_LAYOUTLM, num_coordinates=coordinates)


def read_longformer(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Longformer (Beltagy et al. 2020): RoBERTa with windows and global tokens."""
    fields.raw("onnx_export")
    reading = read_bert(fields, tensors)
    given, config = fields.raw("attention_window"), reading.model.arguments["config"].arguments
    windows = given if isinstance(given, list) else [given] * config["num_layers"]
    if (
        len(windows) != config["num_layers"]
        or len({*map(str, windows)}) != 1
        or type(windows[0]) is not int
        or windows[0] < 2
        or windows[0] % 2
    ):
        raise CheckpointError(
            f"{fields.source} must have an even attention_window, equal in all layers, got {shown(given)}"
        )
    sizes = {"num_heads": config["num_heads"], "one_sided_window": windows[0] // 2}
    return _changed(reading, HF_LONGFORMER, attention=Part("LongformerAttention", sizes))


def read_big_bird(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of BigBird (Zaheer et al. 2020): BERT for texts of few blocks.

    Up to 5 + 2 num_random_blocks blocks, the reference implementation computes full attention. In longer texts, it
    replaces all random blocks by the first block when it does not train, which `BigBirdAttention` does not do.
    """
    fields.only("use_bias", True)
    fields.only("rescale_embeddings", False)
    words = {"original_full": False, "block_sparse": True}
    is_sparse = fields.word("attention_type", words=words)
    block, random = fields.whole("block_size"), fields.whole("num_random_blocks")
    reading, positions = read_bert(fields, tensors), fields.size("max_position_embeddings")
    most = (5 + 2 * random) * block if is_sparse else positions
    if most < 1:
        raise CheckpointError(f"{fields.source} must have a positive block_size, got {block}")
    return _changed(reading, HF_BIG_BIRD, max_tokens=most if most < positions else None)


def _changed(reading: Reading, layout: Layout, **options: Any) -> Reading:
    """The reading of an encoder with other options and another layout."""
    config = reading.model.arguments["config"]
    config = replace(config, arguments={**config.arguments, **options})
    return replace(reading, model=Part(reading.model.name, {"config": config}), layout=layout)


LONGFORMER_HEADS: tuple[Head, ...] = (
    ROBERTA_HEADS[0],
    replace(
        sequence_head(
            "classifier.out_proj",
            hidden="classifier.dense",
            activation="tanh",
            classes=("ForSequenceClassification",),
        ),
        backbone={"global_first": True},
    ),
    token_head("classifier"),
)

BIG_BIRD_HEADS = (
    BERT_HEADS[0],
    sequence_head(
        "classifier.out_proj",
        hidden="classifier.dense",
        classes=("ForSequenceClassification",),
    ),
    sequence_head("classifier", hidden="pooler", activation="tanh", classes=("ForMultipleChoice",)),
    token_head("classifier"),
)

FAMILIES = (
    Family("hf.big_bird", ("big_bird",), read_big_bird, BIG_BIRD_HEADS),
    Family("hf.layoutlm", ("layoutlm",), read_layoutlm, BERT_HEADS[:4]),
    Family("hf.longformer", ("longformer",), read_longformer, LONGFORMER_HEADS),
)
