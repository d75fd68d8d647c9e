"""One row of the page: the inputs of one attention call of a framework and its behaviour."""

from dataclasses import dataclass
from typing import Literal

Float = Literal["added", "inverted", "refused"]
Corner = Literal["upper left", "lower right"]


@dataclass(frozen=True)
class Empty:
    """Result of a call for a fully masked row.

    Attributes:
        when: options that select the code path; empty if there is one.
        call: the call, with `mask` in the peer's own convention.
        result: zeros (before the output projection), NaN, or the mean of all values, masked ones included.
    """

    when: str
    call: str
    result: Literal["zeros", "NaN", "mean"]


@dataclass(frozen=True)
class Peer:
    """One way to call attention. Snippets are Python code that tests run.

    Snippets use `q`, `k` and `v` (operations), `x` and `memory` (layers, `(batch, length, embed)`; `x` alone for
    self-attention), `keep`, a boolean mask `(batch, query, key)`, True where the query attends to the key, and the
    sizes by name.

    Attributes:
        name: public name.
        arrays: framework of the arrays.
        make: expression that builds `layer`; empty for an operation.
        call: the call, with `mask` in the peer's own convention.
        mask: expression that converts `keep` to the peer's own convention.
        layout: axes of `q`, or of `x` for a layer, in order.
        constructor: first parameters of the class.
        arguments: first parameters of the call.
        true: meaning of True in a boolean mask: `shows` if the query attends to the key, `hides` if not.
        floats: treatment of a mask of 0 and -inf: `added` to the scores, `inverted` by a cast to boolean, or `refused`.
        added: argument that is added to the scores; empty if there is none.
        masks: accepted mask shapes, of those in `MASK_SHAPES`.
        misread: mask shapes that are accepted silently but read as another shape.
        causal: causal call; empty if there is none. `corner` is the end of its diagonal for unequal lengths.
        window: call with a window of 3 on the layer from `window_make`; empty if there is none. `window_keys` is the
            number of visible keys, the query's own included; `window_ahead` says whether the window also reaches as far
            ahead.
        empty: result for fully masked rows, per code path.
        weights: call that returns the attention weights; empty if there is none. `weights_axes` are their axes.
        dropped: whether dropout is already applied to these weights.
        scale: argument that replaces the scale 1/sqrt(head_dim); empty if there is none.
        layout_name: name of the tensors' layout in `attention_bridge.weights.layouts`; empty if there is none.
        tensors: names of the tensors and their shapes in words.
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
