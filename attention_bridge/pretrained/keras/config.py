"""Attention layers in the configuration of a Keras model: sizes, and options without tensors.

The configuration is read as data: class names are compared and never looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.shown import cut
from attention_bridge.pretrained.keras.layers import Heads
from attention_bridge.weights.module_checks import keras_refusal

MHA = "MultiHeadAttention"
GQA = ("GroupQueryAttention", "GroupedQueryAttention")


def is_keras(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has the form of a Keras configuration."""
    return isinstance(config.get("class_name"), str) and isinstance(config.get("config"), dict)


def check(path: Path, config: Mapping[str, Any], heads: Mapping[str, Heads]) -> bool:
    """Compare a configuration with the attention layers in a file.

    Args:
        path: the file, for errors.
        config: configuration of the model.
        heads: head sizes of each layer, from its tensors.

    Returns:
        Whether the configuration describes all the layers. A user-defined class may hide the layers in it.

    Raises:
        CheckpointError: a layer has an unsupported option that no tensor shows, or the configuration and the file have
            different layers.
    """
    said: list[tuple[str, tuple[Any, ...]]] = []
    for kind, options in _objects(config):
        name = cut(str(options.get("name") or kind), 60)
        if reason := keras_refusal(options):
            raise CheckpointError(f"{path} is refused: its layer {name} has {cut(reason, 160)}")
        if kind == MHA or kind in GQA:
            said.append((name, _sizes(path, name, options, grouped=kind in GQA)))
    whole = _is_whole(config)
    if not (said or whole):
        return False
    shown = {tuple(each) for each in heads.values()}
    for name, sizes in said:
        if sizes not in shown:
            raise CheckpointError(
                f"{path} is refused: its config.json describes {name} with {cut(_words(sizes), 160)}, but no attention "
                "layer has such tensors"
            )
    described = {sizes for _, sizes in said}
    extra = [layer for layer, each in heads.items() if tuple(each) not in described]
    if whole and extra:
        raise CheckpointError(
            f"{path} is refused: its config.json describes no attention layer of the sizes of "
            f"{extra[0].replace('.', '/')}"
        )
    # A layer that is shared by two models is described twice and saved once, and two layers may share a name.
    fewest, most = len({name for name, _ in said}), len(said)
    if len(heads) < fewest or (len(heads) > most and whole):
        raise CheckpointError(
            f"{path} is refused: its config.json describes {len(said)} attention layers, but it has the tensors of "
            f"{len(heads)}"
        )
    return not extra and len(heads) <= most


def causal_calls(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The attention layers that the model calls with `use_causal_mask=True`, which is not one of their options."""
    found: list[str] = []
    for each in _nodes(config):
        kind, options = each.get("class_name"), each.get("config")
        if isinstance(kind, str) and isinstance(options, dict) and kind.rpartition(">")[2] in (MHA, *GQA):
            calls = _nodes(each.get("inbound_nodes"))
            if any(call.get("use_causal_mask") is True for call in calls):
                found.append(cut(str(options.get("name") or kind), 60))
    return tuple(dict.fromkeys(reversed(found)))


def _objects(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the class name and the options of every object in a configuration."""
    for each in _nodes(node):
        kind, options = each.get("class_name"), each.get("config")
        if isinstance(kind, str) and isinstance(options, dict):
            yield kind.rpartition(">")[2], options


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a configuration."""
    pending = [node]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            yield each
            pending += each.values()
        elif isinstance(each, list):
            pending += each


def _is_whole(config: Mapping[str, Any]) -> bool:
    """Whether all classes are Keras' own, so that the configuration describes every layer."""
    models = [options for _, options in _objects(config) if isinstance(options.get("layers"), list)]
    layers = [layer for model in models for layer in model["layers"] if isinstance(layer, dict)]
    modules = [str(each.get("module")) for each in (config, *layers)]
    return bool(models) and all(module == "keras" or module.startswith("keras.") for module in modules)


def _sizes(path: Path, name: str, options: Mapping[str, Any], *, grouped: bool) -> tuple[Any, ...]:
    try:
        if grouped:
            dim = options["head_dim"]
            sizes = (options["num_query_heads"], options["num_key_value_heads"], dim, dim)
        else:
            count, dim = options["num_heads"], options["key_dim"]
            sizes = (count, count, dim, options.get("value_dim") or dim)
    except KeyError as error:
        raise CheckpointError(
            f"{path} is refused: its config.json describes {name} without {error}"
        ) from error
    if not all(type(size) is int and size > 0 for size in sizes):
        raise CheckpointError(
            f"{path} is refused: its config.json describes {name} with sizes {cut(str(sizes), 70)}"
        )
    return (*sizes, options.get("use_bias", True) is not False, options.get("use_gate", False) is True)


def _words(sizes: tuple[Any, ...]) -> str:
    queries, keys, key_dim, value_dim, bias, gate = sizes
    return (
        f"{queries} heads of queries and {keys} of keys, {key_dim} features of keys and {value_dim} of values, "
        f"{'biases' if bias else 'no biases'} and {'a' if gate else 'no'} gate"
    )
