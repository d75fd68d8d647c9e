"""Check of a configuration's sizes against the tensors: a small checkpoint must not request a large model.

Building a model takes memory before its weights are compared, so impossible sizes raise an error first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.family import Reading

# Fields that are sizes of weight axes; a window of keys, a distance or a token id is not.
AXES = (
    "vocab_size", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "ffn_dim", "token_dim", "num_types",
    "feature_dim", "in_channels", "num_features", "num_buckets", "num_experts", "kv_lora_rank", "q_lora_rank",
    "nope_head_dim", "rope_head_dim", "value_head_dim", "rotary_dim", "num_classes", "shared_dim", "dim", "max_len",
    "num_value_heads", "value_dim", "state_dim", "num_groups", "conv_width", "rank", "num_tasks",
    "num_streams", "dense_dim", "latent_dim", "patch_size", "position_dim", "reduction",
    "window_size",
)  # fmt: skip


def check_sizes(reading: Reading, tensors: Mapping[str, Any], source: object) -> None:
    """Check that there are no more layers than tensors, and no axes longer than the largest tensor.

    Args:
        reading: the read configuration.
        tensors: arrays, or other objects with a `shape`, by name.
        source: name of the configuration in messages.

    Raises:
        CheckpointError: a size is too large; the message gives its name in the model.
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
    """Yield the name and value of every integer in a description, and the number of its layers."""
    for name, value in part.arguments.items():
        if name == "layers":
            yield "num_layers", len(value)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Part):
                yield from _sizes(each)
            elif type(each) is int:
                yield name, each
