"""What may stand for an argument: a size, a number, a flag or a part, as its annotation says."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral, Real
from types import UnionType
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import numpy as np

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

_FROM_ZERO = {"num_sinks", "num_random", "global_blocks", "shift"}  # all other integers count from 1
_NOT_NEGATIVE = {"eps", "norm_eps"}
_ABOVE_ZERO = {"base", "softcap", "max_scale", "gate_temperature"}
_RATES = {"dropout", "rate"}


def checked(make: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """Check the arguments of a constructor against their annotations, before anything is made."""
    signature = inspect.signature(make)
    kinds = {name: x.annotation for name, x in signature.parameters.items() if x.annotation is not x.empty}

    @wraps(make)
    def check_and_make(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        given = {**dict(zip(signature.parameters, args, strict=False)), **kwargs}
        for name, kind in kinds.items():
            if name in given:
                check_argument(name, given[name], kind)
        return make(*args, **kwargs)

    return check_and_make


def check_argument(name: str, value: Any, kind: Any) -> None:
    """Raise TypeError unless `value` is of that kind, and ValueError unless it is in the range of its name.

    Args:
        name: how the message calls it.
        value: what was given.
        kind: an annotation; any other than of sizes, numbers, flags, names and parts accepts everything.
    """
    if isinstance(kind, UnionType):
        kinds = get_args(kind)
        parts = [x for x in kinds if x is not type(None)]
        if value is None and len(parts) < len(kinds):
            return
        if len(parts) > 1:
            if all(_is_part(x) for x in parts) and not isinstance(value, tuple(parts)):
                raise TypeError(_text(name, " or ".join(f"a {x.__name__}" for x in parts), value))
            return
        kind = parts[0]
    if kind is bool:
        check_flag(**{name: value})
    elif kind is int:
        check_size(name, value, least=0 if name in _FROM_ZERO else 1)
    elif kind is float:
        _check_number(name, value)
    elif kind is str and not isinstance(value, str):
        raise TypeError(_text(name, "a string", value))
    elif get_origin(kind) is tuple or get_origin(kind) is Sequence:
        _check_numbers(name, value, kind)
    elif _is_part(kind) and not isinstance(value, kind):
        raise TypeError(_text(name, f"a {kind.__name__}", value))


def check_size(name: str, value: Any, *, least: int = 1) -> None:
    """Raise TypeError unless `value` is an integer, and ValueError unless it is at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(_text(name, "an integer", value))
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_flag(**flags: Any) -> None:
    """Raise TypeError unless every named argument is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(_text(name, "True or False", value))


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(_text(name, "a number", value))
    if name in _RATES and not 0 <= value < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {value}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got {value}")
    if name in _NOT_NEGATIVE and value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    if name in _ABOVE_ZERO and value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def _check_numbers(name: str, value: Any, kind: Any) -> None:
    """Raise unless `value` is a sequence of sizes or numbers; a tuple has as many as its annotation."""
    count = len(get_args(kind)) if get_origin(kind) is tuple else None
    element = get_args(kind)[0]
    if isinstance(value, str) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise TypeError(_text(name, "a sequence of numbers", value))
    if count not in (None, len(value)):
        raise ValueError(f"{name} must hold {count} numbers, got {len(value)}")
    if element is int or element is float:
        for i, x in enumerate(value):
            check_argument(f"{name}[{i}]", x, element)


def _is_part(kind: Any) -> bool:
    """Whether an annotation is a class of modules or configurations."""
    words = {word for base in getattr(kind, "__mro__", ()) for word in (base.__name__,)}
    return "Module" in words or getattr(kind, "__name__", "").endswith("Config")


def _text(name: str, expected: str, value: Any) -> str:
    plain = value is None or isinstance(value, bool | int | float | str)
    return f"{name} must be {expected}, got {repr(value) if plain else type(value).__name__}"
