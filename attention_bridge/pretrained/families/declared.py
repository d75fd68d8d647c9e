"""The sizes that a configuration declares, against the tensors there are: a small file must ask for no large model.

Building a model takes memory before its weights are compared one by one. So what no tensor can hold is refused first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Reading

# Axes of weights. A window, the distance of the last bucket or the number of a token is none.
AXES = (
    "vocab_size", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "ffn_dim", "token_dim", "num_types",
    "feature_dim", "in_channels", "num_features", "num_buckets", "num_experts", "kv_lora_rank", "q_lora_rank",
    "nope_head_dim", "rope_head_dim", "value_head_dim", "rotary_dim", "num_classes", "shared_dim", "dim", "max_len",
    "num_value_heads", "value_dim", "state_dim", "num_groups", "conv_width", "rank",
)  # fmt: skip


def check_sizes(reading: Reading, tensors: Mapping[str, Any], source: object) -> None:
    """Refuse more layers than there are tensors, and axes longer than the largest tensor.

    Args:
        reading: of the configuration.
        tensors: arrays, or what else has a `shape`, under their names.
        source: how messages call the configuration.

    Raises:
        CheckpointError: naming the size, as the model calls it.
    """
    largest = max((math.prod(tensor.shape) for tensor in tensors.values()), default=0)
    for name, size in _sizes(reading.model):
        if name.endswith("_layers") and size > len(tensors):
            raise CheckpointError(
                f"{source} must have no more layers than there are tensors, {len(tensors)}, got {name}={size}"
            )
        if name in AXES and size > largest:
            raise CheckpointError(
                f"{source} must have sizes that fit the tensors, of which the largest has {largest} elements, "
                f"got {name}={size}"
            )


def _sizes(part: Part) -> Iterator[tuple[str, int]]:
    """All whole numbers of a description by their names, and how many layers it lists."""
    for name, value in part.arguments.items():
        if name == "layers":
            yield "num_layers", len(value)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Part):
                yield from _sizes(each)
            elif type(each) is int:
                yield name, each
