"""Formatting of a file's values for messages, abbreviated to fit on a line."""

from __future__ import annotations

import reprlib

from attention_bridge.errors import cut as cut

LONGEST_VALUE = 70
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlong = 40


def shown(value: object) -> str:
    """The `repr` of a value, abbreviated if it is long."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 128 else f"a whole number of {value.bit_length()} bits"
    return cut(_SHORT.repr(value), LONGEST_VALUE)


def listed(names: list[str]) -> str:
    """The first three names, separated by commas, and the number of further ones."""
    some = ", ".join(cut(name, 40) for name in names[:3])
    return some if len(names) <= 3 else f"{some} and {len(names) - 3} more"
