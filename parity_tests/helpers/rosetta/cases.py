"""Which peers a test runs for, and what holds for all of them."""

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
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras' own
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),  # compiling takes long
]
# 4 u sqrt(n), n the sums over features, keys and features.
SINGLE = 4 * 2.0**-24 * (EMBED + 4 + KEY + EMBED) ** 0.5


def each(peers: Sequence[Peer] = PEERS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("peer", peers, ids=lambda peer: peer.name)


def having(attribute: str) -> pytest.MarkDecorator:
    return each([peer for peer in PEERS if getattr(peer, attribute)])


def keys(peer: Peer) -> int:
    """Hugging Face's models read one sequence."""
    return QUERY if is_model(peer) else KEY


def own_place(peer: Peer, seen: np.ndarray) -> np.ndarray:
    """What reaches an output in any case: in a whole model, what stands at its place."""
    return seen | np.eye(QUERY, dtype=bool) if is_model(peer) else seen


def public(name: str) -> list[Any]:
    """The things that a peer names: one, or one in each mirror."""
    if name.endswith(" of both mirrors"):
        short = name.removesuffix(" of both mirrors")
        return [found for m in ("torch_attention", "jax_attention") for found in public(f"{m}.{short}")]
    names()  # imported, without their warnings
    module, _, last = name.rpartition(".")
    try:
        return [getattr(import_module(module), last)]
    except ModuleNotFoundError:
        outer, _, inner = module.rpartition(".")
        return [getattr(getattr(import_module(outer), inner), last)]


def parameters(function: Callable[..., Any]) -> list[str]:
    try:
        found = inspect.signature(function).parameters
    except ValueError:  # PyTorch writes those of its own operations into the first line
        text = re.match(r"\w+\((.*?)\) ->", function.__doc__, flags=re.DOTALL)[1]
        return [part.split("=")[0].strip() for part in text.split(",")]
    return [name for name in found if name != "self"]


def call_of(found: Any) -> Callable[..., Any]:
    """What runs when an operation, or a layer of this class, is called."""
    if not isinstance(found, type):
        return found
    if hasattr(found, "call"):  # of Keras, whatever it runs on
        return found.call
    return found.forward if issubclass(found, torch.nn.Module) else found.__call__


def all_parameters(found: Any) -> set[str]:
    """Of the call, and of the class if it is one."""
    return {*parameters(call_of(found)), *(parameters(found.__init__) if isinstance(found, type) else ())}
