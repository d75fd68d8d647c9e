"""Immutable values with named fields that go into calls and come out of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(*, static: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that compiled functions take and return.

    Args:
        static: fields that hold no arrays; code is compiled anew for each of their values.
    """
    return dataclass(frozen=True)
