"""Reader of MPNet: an encoder like RoBERTa, with T5's position bias besides the position embeddings."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.encoders import ROBERTA_HEADS, encoder_sizes, has_pooler
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_mpnet import HF_MPNET

PADDING = 1  # token that positions do not count, for any pad_token_id
BUCKETS = 32  # buckets by which the reference counts, for any size of the table


def read_mpnet(fields: Fields, tensors: Tensors) -> Reading:
    """Read an MPNet configuration (Song et al. 2020)."""
    sizes = encoder_sizes(fields)
    fields.only("relative_attention_num_buckets", BUCKETS)
    positions, first = fields.size("max_position_embeddings"), PADDING + 1
    if positions <= first:
        raise CheckpointError(
            f"{fields.source} must have max_position_embeddings above {first}, got {positions}"
        )
    return Reading(
        model(
            "Encoder",
            **sizes,
            max_len=positions - first,
            num_types=0,
            first_position=first,
            uncounted_token=PADDING,
            position=Part("T5Bias", {"num_heads": sizes["num_heads"], "num_buckets": BUCKETS}),
            pooler=has_pooler(tensors, "pooler.dense.weight"),
        ),
        HF_MPNET,
    )


FAMILIES = (Family("hf.mpnet", ("mpnet",), read_mpnet, ROBERTA_HEADS),)
