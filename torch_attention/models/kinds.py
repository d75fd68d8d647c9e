"""Inspect module classes and the arguments of their calls."""

import inspect
from functools import cache
from typing import Any, get_args

from torch import nn


def is_module_class(thing: Any) -> bool:
    """Whether an object is a module class."""
    return inspect.isclass(thing) and issubclass(thing, nn.Module)


def call_arguments(module: Any) -> frozenset[str]:
    """The names of the arguments that a module is called with."""
    kind: Any = type(module)
    return _call_arguments(kind)


def call_results(module: Any) -> frozenset[Any]:
    """The classes of which the result of a module's call is one."""
    kind: Any = type(module)
    return _call_results(kind)


@cache
def _call_arguments(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


@cache
def _call_results(kind: Any) -> frozenset[Any]:
    found = inspect.signature(kind.forward).return_annotation
    return frozenset(get_args(found) or (found,))
