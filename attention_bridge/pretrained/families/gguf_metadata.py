"""Entries of the metadata of GGUF files that describe a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.weights.leaves import Spec

PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, a turn and a message


def architecture(metadata: Mapping[str, Any], known: Collection[str], source: object) -> str:
    """The architecture, if the file holds a whole model of a known one."""
    name, kind = _plain(metadata.get("general.architecture")), _plain(metadata.get("general.type", "model"))
    if kind != "model":
        raise CheckpointError(f"{source} must have the general.type model, got {shown(kind)}")
    if not isinstance(name, str) or name not in known:
        raise CheckpointError(
            f"{source} must have a general.architecture of {', '.join(known)}, got {shown(name)}; load the "
            "checkpoint that it was made from"
        )
    if (parts := _plain(metadata.get("split.count", 0))) not in (0, 1):
        raise CheckpointError(
            f"{source} must be a whole model, got one of {shown(parts)} parts; join them with llama.cpp's "
            "`llama-gguf-split --merge`"
        )
    return name


def keys_of(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The metadata of an architecture; a list that gives every layer the same size becomes this size."""
    found = {key: _plain(value) for key, value in metadata.items() if key.startswith(f"{name}.")}
    for key in (f"{name}.{key}" for key in PER_LAYER):
        found |= {key: _of_all_layers(found[key])} if key in found else {}
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _of_all_layers(value: Any) -> Any:
    """The value that a list gives to every layer; a list of several values stays one."""
    return value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value


def head_width(fields: Fields, name: str, dim: int, heads: int) -> int:
    """Features of a head; keys and values must have as many, and all must be rotated."""
    keys = f"{name}.attention.key_length"
    if keys not in fields.given:
        fields.divides(f"{name}.embedding_length", dim, f"{name}.attention.head_count", heads)
    head_dim = fields.size(keys, default=dim // heads)
    for other in ("attention.value_length", "rope.dimension_count"):
        fields.only(f"{name}.{other}", head_dim)
    return head_dim


def vocab_size(fields: Fields, name: str, specs: Mapping[str, Spec], metadata: Mapping[str, Any]) -> int:
    """The rows of the embedding; without tensors the declared number, or the number of the tokenizer's tokens."""
    embedding = specs.get("token_embd.weight")
    tokens = metadata.get("tokenizer.ggml.tokens")
    declared = fields.size(f"{name}.vocab_size", default=len(tokens) if isinstance(tokens, list) else None)
    if embedding is not None and len(embedding.shape) == 2:
        return embedding.shape[0]
    if declared is None:
        raise CheckpointError(
            f"{fields.source} must have token_embd.weight or {name}.vocab_size, got neither"
        )
    return declared


def layer_windows(fields: Fields, name: str, layers: int) -> list[int | None] | None:
    """The window of each layer, as in Mistral's models, although llama.cpp has none there; None for no windows."""
    key = f"{name}.attention.sliding_window"
    window = fields.whole(key, default=0)
    pattern = fields.raw(f"{key}_pattern", default=[True] * layers if name == "llama" else None)
    if not window:
        return None
    if not isinstance(pattern, list) or len(pattern) != layers or any(type(x) is not bool for x in pattern):
        raise CheckpointError(
            f"{fields.source} must have a {key}_pattern of true or false for each of {layers} layers, "
            f"got {shown(pattern)}"
        )
    return [window if each else None for each in pattern]


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that end, begin and pad a text, in the format of Hugging Face's configurations."""

    def tokens(names: tuple[str, ...]) -> list[int]:
        found = (metadata.get(f"tokenizer.ggml.{name}") for name in names)
        return list(dict.fromkeys(token for token in found if type(token) is int))

    given = {"bos_token_id": tokens(("bos_token_id",)), "pad_token_id": tokens(("padding_token_id",))}
    return {"eos_token_id": tokens(END_TOKENS) or None, **{name: x[0] for name, x in given.items() if x}}
