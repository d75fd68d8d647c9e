"""Layouts in a certificate: the name, and for a layout of one's own its table as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from attention_bridge.weights.engine import find_layout
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layout_files import layout_from
from attention_bridge.weights.layout_text import toml_of
from attention_bridge.weights.layouts import LAYOUTS


def is_own(layout: Layout | str) -> bool:
    """Whether a layout is not one of the package's tables."""
    return isinstance(layout, Layout) and LAYOUTS.get(layout.name) != layout


def described(layout: Layout | str) -> dict[str, Any]:
    """A layout as a part of a certificate.

    Raises:
        InputError: the layout is of one's own, and a part of it cannot be written as TOML.
    """
    found = find_layout(layout)
    return {"name": found.name, "toml": toml_of(found) if is_own(layout) else None}


def restored(entry: Mapping[str, Any]) -> Layout | str:
    """The layout that a certificate describes.

    Raises:
        InputError: there is no layout of that name, or the TOML describes none.
    """
    if entry["toml"] is None:
        return find_layout(entry["name"]).name
    return layout_from(tomllib.loads(entry["toml"]), f"the layout {entry['name']} of the certificate")
