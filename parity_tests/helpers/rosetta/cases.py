"""Peers and signatures for parametrised tests of the rosetta."""

import inspect
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from attention_bridge.rosetta import PEERS, Peer
from parity_tests.helpers.rosetta.calls import EMBED, KEY, QUERY, is_model, names

WARNINGS = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # from Keras
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),  # compiling is slow
]
# 4 u sqrt(n), where n is the number of summed terms: features, keys and features.
SINGLE = 4 * 2.0**-24 * (EMBED + 4 + KEY + EMBED) ** 0.5


def each(peers: Sequence[Peer] = PEERS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("peer", peers, ids=lambda peer: peer.name)


def having(attribute: str) -> pytest.MarkDecorator:
    return each([peer for peer in PEERS if getattr(peer, attribute)])


def keys(peer: Peer) -> int:
    """The number of keys: Hugging Face's models have one sequence."""
    return QUERY if is_model(peer) else KEY


def own_place(peer: Peer, seen: np.ndarray) -> np.ndarray:
    """Adds the diagonal in a whole model, where the residual connection always carries a position to its own output."""
    return seen | np.eye(QUERY, dtype=bool) if is_model(peer) else seen


def public(name: str) -> list[Any]:
    """The objects with a peer's name: one, or one per mirror."""
    if name.endswith(" of both mirrors"):
        short = name.removesuffix(" of both mirrors")
        return [found for m in ("torch_attention", "jax_attention") for found in public(f"{m}.{short}")]
    names()  # imports the libraries without their warnings
    module, _, last = name.rpartition(".")
    try:
        return [getattr(import_module(module), last)]
    except ModuleNotFoundError:
        outer, _, inner = module.rpartition(".")
        return [getattr(getattr(import_module(outer), inner), last)]


def parameters(function: Callable[..., Any]) -> list[str]:
    try:
        found = inspect.signature(function).parameters
    except ValueError:  # PyTorch's built-in operations have their signature in the docstring's first line
        text = re.match(r"\w+\((.*?)\) ->", function.__doc__, flags=re.DOTALL)[1]
        return [part.split("=")[0].strip() for part in text.split(",")]
    return [name for name in found if name != "self"]


def call_of(found: Any) -> Callable[..., Any]:
    """The function that runs when an operation, or a layer of this class, is called."""
    if not isinstance(found, type):
        return found
    if hasattr(found, "call"):  # Keras, with any backend
        return found.call
    return found.forward if issubclass(found, torch.nn.Module) else found.__call__


def all_parameters(found: Any) -> set[str]:
    """The parameters of the call, and of the constructor of a class."""
    return {*parameters(call_of(found)), *(parameters(found.__init__) if isinstance(found, type) else ())}
