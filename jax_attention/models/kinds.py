"""What is a class of modules, and what its modules are called with."""

import inspect
from functools import cache
from typing import Any

from flax import nnx


def is_module_class(thing: Any) -> bool:
    """Whether it is a class of modules."""
    return inspect.isclass(thing) and issubclass(thing, nnx.Module)


def call_arguments(module: Any) -> frozenset[str]:
    """The names of the arguments that a module is called with."""
    kind: Any = type(module)
    return _call_arguments(kind)


@cache
def _call_arguments(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.__call__).parameters)
