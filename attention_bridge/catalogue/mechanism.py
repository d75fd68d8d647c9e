"""What an entry of the catalogue says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention_bridge.catalogue.part import Part

# Every axis of every tensor of the proof, by name; no two that meet are equal.
SIZES = {
    "one": 1,
    "batch": 2,
    "heads": 3,
    "query": 5,
    "value_dim": 6,
    "key": 7,
    "query_dim": 8,
    "hidden": 9,
    "key_dim": 10,
    "max_len": 11,
    "embed": 12,  # 3 heads of 4
    "ffn": 13,
    "vocab": 17,
}
DTYPES = ("float32", "float64", "bfloat16")

# How cost can grow with the length n, and the power of n that this is at most between 1,000 and 3,000.
GROWTHS = {"n": 1.0, "n log n": 1.15, "n √n": 1.5, "n²": 2.0}

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """Where a mechanism was published."""

    authors: str
    year: int
    address: str


@dataclass(frozen=True, eq=False)
class Mechanism:
    """One attention mechanism, the same in both mirrors.

    Attributes:
        name: how it is called on the command line and in tables.
        family: the group it belongs to.
        file: where it stands in each mirror.
        paper: where it was published.
        equation: what it computes, in LaTeX.
        module: what to build.
        inputs: the axes of each floating-point input.
        oracle: the equation in float64 numpy, `oracle(parameters, **inputs, **masks)`.
        peers: the outside implementations that the tests compare it with.
        no_peer: why there is none, in one sentence, where `peers` is empty.
        masks: the axes of each mask argument: all four of the weights, or size `one` where it cannot vary.
        tokens: the axes of each integer input.
        arguments: further arrays to call it with, drawn once, such as positions or injected noise.
        keep: the axes of its one keep-mask for dropout, those of its weights; empty if it has none.
        causal: whether no output depends on a later input.
        decoding: how a call reads on from an earlier one: with a `"cache"`, with `"caches"`, one a layer, or with a
            `"state"`; empty if it cannot.
        decoding_options: arguments that it has to be built with for that, besides those of `module`.
        no_decoding: why it cannot, in one sentence, where it can be causal.
        weights: whether a call takes `need_weights`; what only adds to a sequence has none to return.
        sizes: the size of each axis that is named here.
        dtypes: what it is proven in; a choice of keys is no matter for bfloat16, where ties decide.
        native: the function in `attention_bridge.parity.natives` that computes the same with PyTorch's own
            operations, the yardstick for bfloat16; without one that is `attention_bridge.parity.rounded`.
        growth: how the cost grows with the length n by the paper, without the weights: a key of `GROWTHS`.
    """

    name: str
    family: str
    file: str
    paper: Paper
    equation: str
    module: Part
    inputs: Mapping[str, Axes]
    oracle: Callable[..., Any]
    peers: tuple[str, ...] = ()
    no_peer: str = ""
    masks: Mapping[str, Axes] = field(default_factory=dict)
    tokens: Mapping[str, Axes] = field(default_factory=dict)
    arguments: Mapping[str, np.ndarray] = field(default_factory=dict)
    keep: Axes = ()
    causal: bool = False
    decoding: str = ""
    decoding_options: Mapping[str, Any] = field(default_factory=dict)
    no_decoding: str = ""
    weights: bool = True
    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)
    dtypes: tuple[str, ...] = DTYPES
    native: str | None = None
    growth: str = "n²"

    def options(self, need_weights: bool) -> dict[str, bool]:
        """What a call is told besides its arrays."""
        return {"need_weights": need_weights} if self.weights else {}

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """The sizes of named axes."""
        return tuple(self.sizes[axis] for axis in axes)
