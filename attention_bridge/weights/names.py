"""Name patterns: `layers.{n}.{q,k,v}_proj.weight`.

| in a pattern | matches                                                                            |
|--------------|------------------------------------------------------------------------------------|
| `{path}`     | the path of a module, with the last dot, or nothing: `layers.0.attention.`         |
| `{n}`        | a number                                                                           |
| `{name}`     | one name between two dots, or a part of it, or nothing                             |
| `{rest}`     | anything, at least one character                                                   |
| `{q,k,v}`    | one of the alternatives; a pattern has one such group at most                      |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

PLACEHOLDERS = {"path": r"(?:.+\.)?", "n": r"\d+", "name": r"[^.]*", "rest": r".+"}

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ALTERNATIVES = re.compile(r"\{([^{},]+(?:,[^{},]+)+)\}")


def alternatives(text: str) -> tuple[str, ...]:
    """Expand the alternatives of a pattern: one pattern for each, or `text` alone if it has none.

    Raises:
        ValueError: `text` has more than one group of alternatives.
    """
    places = _ALTERNATIVES.findall(text)
    if not places:
        return (text,)
    if len(places) > 1:
        raise ValueError(f"a name pattern has one group of alternatives at most, but got {text!r}")
    return tuple(_ALTERNATIVES.sub(choice, text) for choice in places[0].split(","))


@cache
def pattern(text: str) -> NamePattern:
    """The pattern of a text, compiled once."""
    return NamePattern(text)


@dataclass(frozen=True)
class NamePattern:
    """A name with placeholders.

    Raises:
        ValueError: a placeholder is not one of `PLACEHOLDERS`.
    """

    text: str
    placeholders: frozenset[str] = field(init=False, repr=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        literal_or_placeholder = _PLACEHOLDER.split(self.text)
        placeholders = literal_or_placeholder[1::2]
        for placeholder in placeholders:
            if placeholder not in PLACEHOLDERS:
                known = ", ".join(PLACEHOLDERS)
                raise ValueError(f"a placeholder is one of {known}, but {self.text!r} has {placeholder!r}")
        regex = "".join(
            f"(?P<{part}>{PLACEHOLDERS[part]})" if index % 2 else re.escape(part)
            for index, part in enumerate(literal_or_placeholder)
        )
        object.__setattr__(self, "placeholders", frozenset(placeholders))
        object.__setattr__(self, "_regex", re.compile(regex))

    def match(self, name: str) -> dict[str, str] | None:
        """The values of the placeholders in `name`, or None if `name` does not match."""
        found = self._regex.fullmatch(name)
        return None if found is None else found.groupdict()

    def fill(self, values: Mapping[str, str]) -> str:
        """The name with `values` in place of the placeholders."""
        return self.text.format(**values)
