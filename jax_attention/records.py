"""Immutable values with named fields that go into calls and come out of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(*, static: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that compiled functions take and return.

    Args:
        static: fields that hold no arrays; code is compiled anew for each of their values.
    """

    def decorate(cls: type[T]) -> type[T]:
        made = dataclass(frozen=True)(cls)
        arrays = [name for name in cls.__annotations__ if name not in static]
        return jax.tree_util.register_dataclass(made, data_fields=arrays, meta_fields=list(static))

    return decorate
