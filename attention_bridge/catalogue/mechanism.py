"""The fields of an entry of the catalogue."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention_bridge.catalogue.part import Part

# Size of every axis in the parity tests, by name; axes of one tensor have different sizes.
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
    "embed": 12,  # 3 heads of 4 features
    "ffn": 13,
    "vocab": 17,
}
DTYPES = ("float32", "float64", "bfloat16")

# Growth of the cost with the length n, and upper bound of its measured exponent between n = 1,000 and n = 3,000.
GROWTHS = {"n": 1.0, "n log n": 1.15, "n √n": 1.5, "n²": 2.0}

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """The publication of a mechanism."""

    authors: str
    year: int
    address: str


@dataclass(frozen=True, eq=False)
class Mechanism:
    """One attention mechanism, the same in both mirrors.

    Attributes:
        name: name on the command line and in tables.
        family: group of related mechanisms.
        file: path of the source file in each mirror.
        paper: publication.
        equation: equation in LaTeX.
        module: module to build.
        inputs: axes of each floating-point input.
        oracle: reference implementation in float64 NumPy, `oracle(parameters, **inputs, **masks)`.
        peers: other implementations that the tests compare it with.
        no_peer: reason, in one sentence, why `peers` is empty.
        masks: axes of each mask argument: the four axes of the weights, or `one` where the mask cannot vary.
        tokens: axes of each integer input.
        arguments: further fixed arrays for the call, such as positions or noise.
        keep: axes of its dropout mask, the same as the axes of its weights; empty for no dropout.
        causal: whether no output depends on a later input.
        decoding: argument for incremental decoding: `"cache"`, `"caches"` (one per layer) or `"state"`; empty for no
            incremental decoding.
        decoding_options: constructor arguments for incremental decoding, besides the arguments of `module`.
        no_decoding: reason, in one sentence, why a mechanism that can be causal has no incremental decoding.
        weights: whether a call takes `need_weights`; False for modules without attention weights.
        sizes: size of each named axis.
        dtypes: dtypes of the parity tests; mechanisms that choose keys omit bfloat16, where ties decide the choice.
        native: function of `attention_bridge.parity.natives` that computes the same with PyTorch's own operations, the
            yardstick for bfloat16; None for `attention_bridge.parity.rounded` as the yardstick.
        growth: growth of the cost with the length n according to the paper, without weights: a key of `GROWTHS`.
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
        """Keyword arguments of a call besides its arrays."""
        return {"need_weights": need_weights} if self.weights else {}

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """Sizes of named axes."""
        return tuple(self.sizes[axis] for axis in axes)
