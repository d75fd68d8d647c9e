"""Plain-text table of a model's layers.

print(layer_table(model.config))

The table is complete: arguments without a column are listed below it, with their part and layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import cut
from attention_bridge.pretrained.families.describe import as_part
from attention_bridge.weights.report import table

LONGEST_LAYERS = 60  # characters in a list of layers
LONGEST_SEQUENCE = 8  # elements of a sequence that are shown; a longer one is cut to three
# Defaults of the fields of a description, as in the mirrors.
LAYER = {
    "mixer": None,
    "ffn": None,
    "arrangement": "pre",
    "norm": Part("rms_norm"),
    "residual_scale": 1.0,
    "kv_layer": None,
    "token_input": None,
    "output_scale": False,
    "output_norm": None,
    "laurel": None,
    "updates": None,
}
MODEL = {
    "vocab_size": None,
    "embed_dim": None,
    "max_len": None,
    "embedding_norm": None,
    "embed_scale": 1.0,
    "tied": False,
    "norm": Part("rms_norm"),
    "head_bias": False,
    "logit_scale": 1.0,
    "logit_softcap": None,
    "is_causal": True,
    "num_types": None,
    "first_position": 0,
    "position": None,
    "embedding_position": None,
    "layer_embedding": None,
    "positions_last": False,
    "mask_token": None,
    "token_dim": None,
    "streams": None,
    "relative_types": None,
    "sees_itself": False,
    "special_tokens": Part("SpecialTokens"),
}
ROLES = ("mixer", "position", "feed-forward", "norm", "other fields")
EMBEDDING = ("vocab_size", "embed_dim", "max_len", "embedding_norm", "embed_scale", "tied")
RARE = (
    "is_causal",
    "num_types",
    "first_position",
    "position",
    "embedding_position",
    "layer_embedding",
    "positions_last",
    "mask_token",
    "token_dim",
    "streams",
    "relative_types",
    "sees_itself",
    "head_bias",
    "logit_scale",
)


def layer_table(description: Any, most: int | None = None) -> str:
    """Format the layers of a language model as a table, one row for each run of equal layers.

    Other models give a table of their sizes.

    Args:
        description: configuration of a model: a `Part`, or the `config` of a model of either mirror.
        most: largest number of rows; None for all.

    Returns:
        Lines of text: embedding, table, arguments without a column, final norm, head and special tokens.
    """
    part = as_part(description)
    if part.name == "TaskSpec":
        backbone = layer_table(part.arguments["backbone"], most).split("\n")
        lines = [_without_head(line) if line.startswith("head: ") else line for line in backbone]
        return "\n".join([*filter(None, lines), f"task head: {_text(part.arguments['head'])}"])
    if part.name != "ModelSpec":
        return table(("field", "value"), _sizes(part))
    left = {**MODEL, **part.arguments}
    embedding = {name: left.pop(name) for name in EMBEDDING}
    for name in RARE:
        if left[name] == MODEL[name]:
            left.pop(name)
    special = _named(left.pop("special_tokens"))
    head = "the embedding matrix" if embedding["tied"] else "a matrix of its own"
    return "\n".join(
        [
            f"embedding: {_listed(embedding)}",
            *_layers(left.pop("layers"), most, "" if embedding["max_len"] is None else "learned"),
            f"final norm: {_text(left.pop('norm'))}",
            f"head: {head}, {_listed({'logit_softcap': left.pop('logit_softcap'), **left})}",
            *([f"special tokens: {_listed(special)}"] if special else []),
        ]
    )


def _without_head(line: str) -> str:
    """The line of the head without the output matrix, which a model with a task head has not."""
    others = line.partition(", ")[2].removeprefix("logit_softcap=None").removeprefix(", ")
    return f"other fields: {others}" if others else ""


def _layers(layers: tuple[Part, ...], most: int | None, position: str) -> Iterator[str]:
    """The table, then the arguments without a column; `position` is shown for mixers that have no position."""
    runs, start = [], 0
    for layer, equal in groupby(layers):
        end = start + len(list(equal))
        runs.append((str(start) if end == start + 1 else f"{start}-{end - 1}", layer))
        start = end
    rows: list[dict[str, str]] = []
    others: dict[tuple[str, str], list[str]] = {}  # (role, arguments) to layers
    for where, layer in runs[:most]:
        cells, rest = _row(layer, position)
        rows.append({"layers": where, **cells})
        for role, arguments in zip(ROLES, rest, strict=True):
            if arguments:
                others.setdefault((role, _listed(arguments)), []).append(where)
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    yield table(columns, [[row[name] for name in columns] for row in rows])
    if len(runs) > len(rows):
        yield f"... and {len(runs) - len(rows)} more runs of equal layers"
    for (role, text), places in sorted(others.items(), key=lambda item: ROLES.index(item[0][0])):
        yield f"{role} of {_places(places, len(runs))}: {text}"


def _row(layer: Part, position: str) -> tuple[dict[str, str], tuple[dict[str, Any], ...]]:
    """The cells of a layer, and the arguments without a column for each of `ROLES`."""
    left = {**LAYER, **layer.arguments}
    for name in (
        "residual_scale",
        "kv_layer",
        "token_input",
        "output_scale",
        "output_norm",
        "laurel",
        "updates",
    ):
        if left[name] == LAYER[name]:
            left.pop(name)
    mixer, mixer_left = _opened(left.pop("mixer"))
    ffn, ffn_left = _opened(left.pop("ffn"))
    norm, norm_left = _opened(left.pop("norm"))
    position, position_left = _opened(mixer_left.pop("position", position))
    heads = _taken(mixer_left, "num_heads")
    if heads and "num_kv_heads" in mixer_left:
        heads += f"/{_taken(mixer_left, 'num_kv_heads')}"
    if "base" in position_left:
        position += f" base={_taken(position_left, 'base')}"
    cells = {
        "mixer": mixer,
        "heads": heads,
        "head_dim": _taken(mixer_left, "head_dim"),
        "position": position,
        "window": _taken(mixer_left, "window"),
        "feed-forward": ffn,
        "ffn_dim": _taken(ffn_left, "ffn_dim"),
        "experts": _taken(ffn_left, "num_experts"),
        "arrangement": _text(left.pop("arrangement")),
        "norm": norm,
    }
    return cells, (mixer_left, position_left, ffn_left, norm_left, left)


def _opened(value: Any) -> tuple[str, dict[str, Any]]:
    """The name and arguments of a part; another value as text, without arguments."""
    return (value.name, dict(value.arguments)) if isinstance(value, Part) else (_text(value), {})


def _taken(arguments: dict[str, Any], name: str) -> str:
    """Remove an argument and return it as text; empty if it is not given."""
    return _text(arguments.pop(name)) if name in arguments else ""


def _places(places: list[str], runs: int) -> str:
    if len(places) == runs:
        return "all layers"
    one = len(places) == 1 and "-" not in places[0]
    return f"{'layer' if one else 'layers'} {cut(', '.join(places), LONGEST_LAYERS)}"


def _sizes(part: Part, within: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a configuration and of nested ones, by path."""
    for name, value in _named(part).items():
        yield within + name, value.name if isinstance(value, Part) else _text(value)
        if isinstance(value, Part):
            yield from _sizes(value, f"{within}{name}.")


def _named(part: Part) -> dict[str, Any]:
    """The arguments of a part, without absent special tokens."""
    if part.name == "SpecialTokens":
        return {name: value for name, value in part.arguments.items() if value not in (None, ())}
    return {
        name: value
        for name, value in part.arguments.items()
        if not isinstance(value, Part) or value.name != "SpecialTokens" or _named(value)
    }


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in arguments.items())


def _text(value: Any) -> str:
    if isinstance(value, Part):
        return f"{value.name}({_listed(value.arguments)})" if value.arguments else value.name
    if isinstance(value, tuple):
        shown = value if len(value) <= LONGEST_SEQUENCE else (*value[:3], f"{len(value) - 3} more")
        return f"({', '.join(map(_text, shown))})"
    return str(value)
