"""Objects of JSON and maps of msgpack in which no key comes twice."""

from __future__ import annotations

from typing import Any


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary of pairs, for `object_pairs_hook`.

    Raises:
        ValueError: a key comes twice, of which one value would be lost.
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it gives the key {key!r:.100} twice")
        found[key] = value
    return found
