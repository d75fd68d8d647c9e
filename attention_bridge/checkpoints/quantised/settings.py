"""Checked access to the fields of a `quantization_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_bridge.errors import CheckpointError

LARGEST = 2**31 - 1


class Settings:
    """The fields of a `quantization_config`.

    Args:
        given: the fields by name.
        source: the file that they come from, for messages.

    Raises:
        CheckpointError: `given` has no names.
    """

    def __init__(self, given: object, source: object) -> None:
        if not isinstance(given, Mapping):
            raise CheckpointError(f"{source} must have a quantization_config with names, got {short(given)}")
        self.given: Mapping[str, Any] = given
        self.source = source

    def fault(self, name: str, expected: str) -> CheckpointError:
        """The error of a field with an unusable value.

        Args:
            name: name of the field.
            expected: the values that it may have, in words.
        """
        return CheckpointError(
            f"{self.source} must have a quantization_config whose {name} is {expected}, "
            f"got {short(self.given.get(name))}"
        )

    def whole(self, *names: str, default: int) -> int:
        """The first of these fields that is given, a whole number; `default` if none is."""
        for name in names:
            value = self.given.get(name)
            if value is not None:
                if type(value) is not int or abs(value) > LARGEST:
                    raise self.fault(name, "a whole number")
                return value
        return default

    def flag(self, name: str, default: bool) -> bool:
        """The field, true or false; `default` if it is absent or null."""
        value = self.given.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(name, "true or false")
        return value

    def text(self, *names: str, default: str) -> str:
        """The first of these fields that is given, in lower case; `default` if none is."""
        for name in names:
            value = self.given.get(name)
            if value is not None:
                if not isinstance(value, str):
                    raise self.fault(name, "text")
                return value.lower()
        return default

    def block(self, name: str) -> tuple[int, int] | None:
        """The field, two positive whole numbers; None if it is absent or null."""
        value = self.given.get(name)
        if value is None:
            return None
        if (
            not isinstance(value, list | tuple)
            or len(value) != 2
            or any(type(size) is not int or not 0 < size <= LARGEST for size in value)
        ):
            raise self.fault(name, "two positive whole numbers")
        return value[0], value[1]


def short(value: object) -> str:
    """A value for a message, of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
