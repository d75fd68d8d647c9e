"""Arrays in nested arguments and results, such as KV caches in tuples and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx


def leaves(x: Any, kind: type = np.ndarray) -> Iterator[Any]:
    """The arrays of a kind in nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(x, kind):
        yield x
    elif _is_sequence(x):
        for each in x:
            yield from leaves(each, kind)
    elif type(x) is dict:
        for each in x.values():
            yield from leaves(each, kind)
    elif _is_data(x):
        for each in dataclasses.fields(x):
            yield from leaves(getattr(x, each.name), kind)


def mapped(x: Any, function: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists, dicts and dataclasses with a function of each leaf, in the order of `leaves`."""
    if _is_sequence(x):
        made = [mapped(each, function) for each in x]
        return type(x)(*made) if hasattr(x, "_fields") else type(x)(made)
    if type(x) is dict:
        return {name: mapped(each, function) for name, each in x.items()}
    if _is_data(x):
        copied = copy(x)
        for each in dataclasses.fields(x):
            object.__setattr__(copied, each.name, mapped(getattr(x, each.name), function))
        return copied
    return function(x)


def _is_sequence(x: Any) -> bool:
    return type(x) in (tuple, list) or (isinstance(x, tuple) and hasattr(x, "_fields"))


def _is_data(x: Any) -> bool:
    """Whether an argument is a dataclass that holds arrays, such as a KV cache, and no configuration or module."""
    if not dataclasses.is_dataclass(x) or isinstance(x, type | dict | nnx.Module | torch.nn.Module):
        return False
    held = (getattr(x, each.name) for each in dataclasses.fields(x))
    return any(isinstance(each, np.ndarray | jax.Array | torch.Tensor) for each in held)
