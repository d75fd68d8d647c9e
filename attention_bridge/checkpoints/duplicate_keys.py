"""Check for duplicate keys in JSON objects and msgpack maps."""

from __future__ import annotations

from typing import Any


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Build a dictionary from pairs, for `object_pairs_hook`.

    Raises:
        ValueError: there is a duplicate key, so that one value would be lost.
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it gives the key {key!r:.100} twice")
        found[key] = value
    return found
