"""Fields that many decoders have in common: heads, layer types, tied embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.weights.layout import Layout, Tied

# Kinds of layers, as configurations name them.
FULL, WINDOWED, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def head_dim(fields: Fields) -> int:
    """Features of a head: from the configuration, or `hidden_size / num_attention_heads`."""
    dim, num_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if fields.raw("head_dim") is None:
        fields.divides("hidden_size", dim, "num_attention_heads", num_heads)
    return fields.size("head_dim", default=dim // num_heads)


def grouped_heads(fields: Fields) -> dict[str, Any]:
    """The sizes `num_heads`, `num_kv_heads` and `head_dim` of grouped-query attention."""
    num_heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", default=num_heads)
    fields.divides("num_attention_heads", num_heads, "num_key_value_heads", kv_heads)
    return {"num_heads": num_heads, "num_kv_heads": kv_heads, "head_dim": head_dim(fields)}


def layer_types(fields: Fields, num_layers: int, kinds: object, known: Sequence[str]) -> tuple[str, ...]:
    """The kind of each layer, such as `full_attention`.

    Args:
        fields: the configuration, which names the source in messages.
        num_layers: number of layers.
        kinds: value of `layer_types`, or its default.
        known: kinds that the family has.

    Raises:
        CheckpointError: there is not one known kind for each layer.
    """
    if (
        not isinstance(kinds, list | tuple)
        or len(kinds) != num_layers
        or any(kind not in known for kind in kinds)
    ):
        raise CheckpointError(
            f"{fields.source} must have layer_types {' or '.join(known)} for each of {num_layers} layers, "
            f"got {shown(kinds)}"
        )
    return tuple(kinds)


def by_layer(layout: Layout, paths: Sequence[str]) -> Layout:
    """The layout of a hybrid, whose kinds of layers have mixers of other names: each rule of a mixer for its layers.

    Args:
        layout: the layout, with rules for `model.layers.{n}.` and one of the paths.
        paths: path of the mixer of each layer, such as `linear_attn.`.
    """
    rules: list[Any] = []
    for rule in layout.rules:
        path = next((each for each in paths if rule.theirs.startswith(f"model.layers.{{n}}.{each}")), None)
        numbers = [str(n) for n, each in enumerate(paths) if each == path]
        named = [(rule.theirs.replace("{n}", n), rule.hub.replace("{n}", n)) for n in numbers]
        rules += [replace(rule, theirs=theirs, hub=hub) for theirs, hub in named] if path else [rule]
    known = tuple(f"model.layers.{{n}}.{path}" for path in ("self_attn.", "linear_attn.", "mamba.", "conv."))
    return replace(layout, rules=tuple(rule for rule in rules if not rule.theirs.startswith(known)))


def with_tied(layout: Layout, tied: bool, head: str, embeddings: str) -> Layout:
    """The layout, with `head` declared as tied to `embeddings` if the model's embeddings are tied."""
    again = Tied(head, embeddings, "tied embeddings")
    return replace(layout, tied=(*layout.tied, again)) if tied else layout


def untied(layout: Layout, head: str) -> Layout:
    """The layout without the declaration that `head` repeats the embedding."""
    return replace(layout, tied=tuple(each for each in layout.tied if each.name != head))
