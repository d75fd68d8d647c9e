"""Inspect modules, their classes and the arguments of their calls."""

import inspect
from functools import cache
from typing import Any, get_args

from torch import nn


def is_module_class(thing: Any) -> bool:
    """Whether an object is a module class."""
    return inspect.isclass(thing) and issubclass(thing, nn.Module)


def call_arguments(module: Any) -> frozenset[str]:
    """Names of the arguments of a module's call; `module` may also be a class."""
    return _call_arguments(_class_of(module))


def call_results(module: Any) -> frozenset[Any]:
    """Possible result classes of a module's call; `module` may also be a class."""
    return _call_results(_class_of(module))


def table_shape(table: Any) -> tuple[int, ...]:
    """Number of vectors of an embedding, and number of features of each."""
    return tuple(table.weight.shape)


def _class_of(module: Any) -> Any:
    return module if inspect.isclass(module) else type(module)


@cache
def _call_arguments(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


@cache
def _call_results(kind: Any) -> frozenset[Any]:
    found = inspect.signature(kind.forward).return_annotation
    return frozenset(get_args(found) or (found,))
