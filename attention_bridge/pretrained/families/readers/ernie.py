"""Reader of ERNIE: an encoder like BERT, with an embedding of the task."""

from __future__ import annotations

from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.encoders import BERT_HEADS, encoder_sizes, has_pooler
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_ernie import HF_ERNIE


def read_ernie(fields: Fields, tensors: Tensors) -> Reading:
    """Read an ERNIE configuration (Sun et al. 2019); each token has task 0, the default of the reference."""
    sizes = encoder_sizes(fields)
    if fields.flag("use_task_id", False):
        sizes["num_tasks"] = fields.size("task_type_vocab_size")
    fields.raw("task_type_vocab_size")
    return Reading(
        model(
            "Encoder",
            **sizes,
            max_len=fields.size("max_position_embeddings"),
            num_types=fields.size("type_vocab_size"),
            pooler=has_pooler(tensors, "pooler.dense.weight"),
        ),
        HF_ERNIE,
    )


FAMILIES = (Family("hf.ernie", ("ernie",), read_ernie, BERT_HEADS),)
