"""Configurations of Llama, Mistral, Qwen 2 and Qwen 3 from the metadata of GGUF files (llama.cpp).

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import Heads, language_model, rotary_decoder
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.gguf_metadata import (
    architecture,
    head_width,
    keys_of,
    layer_windows,
    special_tokens,
    vocab_size,
)
from attention_bridge.pretrained.families.gguf_rope import frequency_factors, gguf_rope, gguf_rope_parameters
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.gguf_llama import GGUF_LLAMA, GGUF_QWEN
from attention_bridge.weights.leaves import Spec

LAYOUT_OF = {"llama": GGUF_LLAMA, "qwen2": GGUF_QWEN, "qwen3": GGUF_QWEN}  # of the supported architectures
# Keys that do not change the logits, and values of others with which they do not.
HARMLESS = ("pooling_type", "classifier.output_labels")
NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "tensor_data_layout": ("Meta AI original pth",),
}


def gguf_config(
    metadata: Mapping[str, Any],
    specs: Mapping[str, Spec] | None = None,
    read: Callable[[str], np.ndarray] | None = None,
    source: object = "the GGUF file",
    *,
    ignore: Collection[str] = (),
) -> dict[str, Any]:
    """Read the configuration of a model from the metadata of its GGUF file, for `read_config`.

    Args:
        metadata: metadata of the file, by name.
        specs: shape and dtype of each tensor; they give the number of tokens, biases, and whether the embeddings are
            tied. None for a model without biases but Qwen 2's, with untied embeddings.
        read: function that returns the values of the tensor of a name; needed for files with divisors of the rotary
            frequencies.
        source: the file, for messages.
        ignore: names of metadata that are not read.

    Raises:
        CheckpointError: the architecture is not supported, a size is missing or impossible, or metadata that is not
            understood may change the arithmetic.
    """
    metadata = {key: value for key, value in metadata.items() if key not in ignore}
    name, names = architecture(metadata, LAYOUT_OF, source), {} if specs is None else specs
    fields = Fields(keys_of(metadata, name), source)
    layers, heads = fields.layers(f"{name}.block_count"), fields.size(f"{name}.attention.head_count")
    dim = fields.size(f"{name}.embedding_length")
    head_dim = head_width(fields, name, dim, heads)
    factors = frequency_factors(names, read, source, head_dim // 2) if name == "llama" else None
    found = {
        "model_type": f"gguf.{name}",
        "vocab_size": vocab_size(fields, name, names, metadata),
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": fields.size(f"{name}.attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "intermediate_size": fields.size(f"{name}.feed_forward_length"),
        "rms_norm_eps": fields.number(f"{name}.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": fields.size(f"{name}.context_length", default=None),
        "rope_parameters": gguf_rope_parameters(fields, name),
        "rope_frequency_factors": factors,
        "layer_windows": layer_windows(fields, name, layers),
        "qkv_bias": name == "qwen2" if specs is None else "blk.0.attn_q.bias" in names,
        "out_bias": "blk.0.attn_output.bias" in names,
        "ffn_bias": "blk.0.ffn_gate.bias" in names,
        "tie_word_embeddings": specs is not None and "output.weight" not in names,
        **special_tokens(metadata),
    }
    for key, accepted in NEUTRAL.items():
        fields.only(f"{name}.{key}", *accepted)
    fields.refuse_unread(
        "metadata that may change the arithmetic and are not understood",
        [f"{name}.{key}" for key in HARMLESS],
    )
    return {key: value for key, value in found.items() if value is not None}


def read_gguf(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration that `gguf_config` returned."""
    kind, head_dim = fields.given["model_type"], fields.size("head_dim")
    dim, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=heads)
    fields.divides("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    fields.size("max_position_embeddings", default=None)
    model = rotary_decoder(
        Heads(
            dim,
            heads,
            kv_heads,
            head_dim,
            qkv_bias=fields.flag("qkv_bias", False),
            out_bias=fields.flag("out_bias", False),
            qk_norm=kind == "gguf.qwen3",
            norm_eps=fields.number("rms_norm_eps"),
        ),
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.layers("num_hidden_layers"),
        ffn_dim=fields.size("intermediate_size"),
        ffn_bias=fields.flag("ffn_bias", False),
        rope=gguf_rope(fields, head_dim),
        windows=_windows(fields),
        tied=fields.flag("tie_word_embeddings", False),
    )
    layout = LAYOUT_OF[kind.removeprefix("gguf.")]
    return Reading(language_model(model), layout, {"pair": head_dim // 2} if layout is GGUF_LLAMA else {})


def may_be_layout(layout: str, metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata of a file allow a layout: the names alone do not show the order of rotary pairs.

    Args:
        layout: name of the layout.
        metadata: metadata of the file, by name; only GGUF files have an architecture.
    """
    if "general.architecture" not in metadata or layout not in {each.name for each in LAYOUT_OF.values()}:
        return True
    own = LAYOUT_OF.get(str(metadata["general.architecture"]))
    return own is not None and layout == own.name


def _windows(fields: Fields) -> tuple[int | None, ...]:
    """The window of each layer in a configuration that `gguf_config` returned; empty for no windows."""
    given = fields.raw("layer_windows", default=[])
    layers = fields.layers("num_hidden_layers")
    if not isinstance(given, list | tuple) or len(given) not in (0, layers):
        raise CheckpointError(
            f"{fields.source} must have a window or null in layer_windows for each of {layers} layers, "
            f"got {shown(given)}"
        )
    return tuple(
        Fields({"layer_windows": x}, fields.source).size("layer_windows", default=None) for x in given
    )


FAMILIES = (Family("gguf", tuple(f"gguf.{name}" for name in LAYOUT_OF), read_gguf),)
