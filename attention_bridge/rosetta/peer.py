"""One row of the page: how one attention call of a framework wants its inputs and what it does with them."""

from dataclasses import dataclass
from typing import Literal

Float = Literal["added", "inverted", "refused"]
Corner = Literal["upper left", "lower right"]


@dataclass(frozen=True)
class Empty:
    """What a query gets that sees no key.

    Attributes:
        when: on which path of the peer.
        call: the call, with `mask` as in the peer's own.
        result: zeros (before the output projection), NaN, or the mean of all values, the hidden ones too.
    """

    when: str
    call: str
    result: Literal["zeros", "NaN", "mean"]


@dataclass(frozen=True)
class Peer:
    """One way to call attention. Snippets are Python; tests run them.

    They read `q`, `k` and `v` (operations), `x` and `memory` (layers, `(batch, length, embed)`; in one sequence `x`
    alone), `keep`, our mask `(batch, query, key)` with True where the query attends, and the sizes by name.

    Attributes:
        name: its public name.
        arrays: of which framework.
        make: builds `layer`; empty for an operation.
        call: the call, with `mask` in the peer's own words.
        mask: `keep` in the peer's own words.
        layout: axes of `q`, or of `x` by default, in order.
        constructor: first parameters of the class.
        arguments: first parameters of the call.
        true: what True in a boolean mask does.
        floats: what becomes of 0 and -inf in the place of such a mask.
        added: the argument that is added to the scores, or empty.
        masks: shapes that a mask may have, of those in `MASK_SHAPES`.
        misread: shapes that are taken without a word and read as something else.
        causal: a causal call, or empty; `corner` is where its diagonal ends if query and key lengths differ.
        window: a call with the window argument 3, or empty, of what `window_make` builds; `window_keys` is how many
            keys a query then sees, its own included; `window_ahead`, whether it sees as many on the other side too.
        empty: what a query gets that sees no key.
        weights: a call that gives the weights, or empty; `weights_axes` are their axes.
        dropped: whether these weights are those after dropout.
        scale: the argument that replaces `1 / sqrt(head_dim)`, or empty.
        layout_name: of its tensors in `attention_bridge.weights.layouts`, or empty.
        tensors: their names and the words for their shapes.
    """

    name: str
    arrays: Literal["torch", "jax", "keras"]
    call: str
    mask: str
    layout: str
    arguments: tuple[str, ...]
    true: Literal["shows", "hides"]
    floats: Float
    masks: tuple[str, ...]
    empty: tuple[Empty, ...]
    make: str = ""
    constructor: tuple[str, ...] = ()
    added: str = ""
    misread: tuple[str, ...] = ()
    causal: str = ""
    corner: Corner | None = None
    window: str = ""
    window_make: str = ""
    window_keys: int | None = None
    window_ahead: bool = False
    weights: str = ""
    weights_axes: str = ""
    dropped: bool | None = None
    scale: str = ""
    layout_name: str = ""
    tensors: tuple[tuple[str, str], ...] = ()


MASK_SHAPES = (
    "query key",
    "batch query key",
    "heads query key",
    "batch*heads query key",
    "batch key",
    "batch 1 1 key",
    "batch heads query key",
)
