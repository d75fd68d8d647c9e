"""Interactive page of attention weights: one HTML file with its script and data, without server or network.

BertViz and CircuitsVis are not used because both need torch and load their scripts from the network.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints.atomic import replacing
from attention_bridge.errors import InputError
from attention_bridge.plots.arrays import labels, layers_of, place

LARGEST_HALF = float(np.finfo(np.float16).max)


def html(
    weights: Any,
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    layer: int = 0,
    head: int | None = 0,
    batch: int = 0,
    title: str = "Attention",
) -> str:
    """Make an interactive page of attention weights: pointing at a token shades the tokens that it attends to.

    Controls choose the layer and the head, or the mean over heads. Arrow keys move from token to token. Shades are
    relative to the token's largest weight. Weights are stored as float16 in base64, 2.7 bytes each.

    Args:
        weights: attention weights of one layer, `(..., heads, query, key)` or `(query, key)`, or a list of layers,
            from any framework.
        tokens: texts of the queries, and of the keys if `key_tokens` is None; markup in them is escaped.
        key_tokens: texts of the keys in cross-attention; None for self-attention.
        layer: layer shown first.
        head: head shown first; None for the mean over heads.
        batch: element of the batch, counted over all axes before the heads.
        title: title of the page.

    Returns:
        The HTML of the page.

    Raises:
        TypeError: the weights are not arrays.
        InputError: the layer, the head or the batch element does not exist, the shapes or tokens do not fit, or a
            weight is outside the range of float16.
    """
    array = layers_of("weights", weights, batch)
    layers, heads, query_len, key_len = array.shape
    if key_tokens is None and query_len != key_len:
        raise InputError(
            f"key_tokens must be given if queries ({query_len}) and keys ({key_len}) differ in number"
        )
    queries, keys = labels(tokens, key_tokens, (query_len, key_len))
    place("layer", layer, layers)
    if head is not None:
        place("head", head, heads)
    if (largest := float(np.abs(array).max())) > LARGEST_HALF:
        raise InputError(f"weights must be at most {LARGEST_HALF:.0f}, got {largest:.3g}")

    halves = array.astype("<f2").tobytes()
    data = {
        "queries": queries,
        "keys": None if key_tokens is None else keys,
        "layers": layers,
        "heads": heads,
        "layer": layer,
        "head": "mean" if head is None and heads > 1 else head or 0,
        "weights": base64.b64encode(halves).decode(),
    }
    about = (
        f"{_count(layers, 'layer')}, {_count(heads, 'head')}, {_count(query_len, 'query', 'queries')}, "
        f"{_count(key_len, 'key')}; {size(len(halves))} of weights, as float16."
    )
    parts = {"title": escape(title), "about": escape(about), "data": _script_safe(json.dumps(data))}
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(title|about|data)\}\}", lambda found: parts[found[1]], template)


def write_html(path: str | os.PathLike[str], *arguments: Any, **options: Any) -> int:
    """Write the page of `html`; an existing file stays until the new one is complete.

    Args:
        path: file to write; must end in `.html`.
        arguments: positional arguments of `html`.
        options: keyword arguments of `html`.

    Returns:
        The size of the file in bytes.

    Raises:
        TypeError: the weights are not arrays.
        InputError: the path has another suffix, or an argument does not fit, as in `html`.
        CheckpointError: the directory of the path does not exist.
        DiskError: the system cannot write.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise InputError(f"a page must end in .html, got {path}")
    page = html(*arguments, **options).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def size(count: int) -> str:
    """Format a number of bytes, such as `1.2 MB`."""
    unit, factor = next((u for u in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= u[1]), ("bytes", 1))
    return f"{count / factor:.3g} {unit}"


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _script_safe(text: str) -> str:
    """Escape JSON so that nothing in it ends the script or begins a tag or comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
