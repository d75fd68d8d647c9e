"""Who sees whom, mistaken: polarity, causality, windows, and rows that see nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from attention_bridge.doctor.port import Port
from attention_bridge.doctor.suspects.suspect import Suspect


def inverted(port: Port) -> Iterator[Port]:
    """True hides."""
    if port.mask is not None:
        yield replace(port, mask=~port.mask)


def unmasked(port: Port) -> Iterator[Port]:
    """No mask."""
    if port.mask is not None:
        yield replace(port, mask=None)


def mask_transposed(port: Port) -> Iterator[Port]:
    """Rows are keys."""
    if port.mask is not None and port.mask.shape[-1] == port.mask.shape[-2] > 1:
        yield replace(port, mask=port.mask.swapaxes(-1, -2))


def not_causal(port: Port) -> Iterator[Port]:
    """Every position is seen, or with a window every later one."""
    if port.setting.is_causal:
        yield port.set(is_causal=False, window=None)
        if port.setting.window is not None:
            every = port.keys.shape[1]
            wide = port.set(window=port.setting.window + every)
            yield replace(wide, mask_offset=port.mask_offset + every)


def causal(port: Port) -> Iterator[Port]:
    """Later positions are hidden."""
    if not port.setting.is_causal:
        yield port.set(is_causal=True)


def other_corner(port: Port) -> Iterator[Port]:
    """The causal diagonal ends in the lower right corner, or begins in the upper left one."""
    right = port.keys.shape[1] - port.x.shape[1]
    if port.setting.is_causal and right:
        offset = -right if port.setting.query_offset == right else right
        yield replace(port, mask_offset=offset)


def diagonal_moved(port: Port, *, by: int) -> Iterator[Port]:
    """The causal diagonal stands one further; a window keeps its first key, or moves as a whole."""
    if port.setting.is_causal:
        moved = replace(port, mask_offset=port.mask_offset + by)
        if port.setting.window is not None:
            yield moved.set(window=max(port.setting.window + by, 1))
        yield moved


def window_resized(port: Port, *, by: int) -> Iterator[Port]:
    """The window counts more or fewer keys."""
    if port.setting.window is not None and port.setting.window + by > 0:
        yield port.set(window=port.setting.window + by)


def without_window(port: Port) -> Iterator[Port]:
    """All earlier keys are seen."""
    if port.setting.window is not None:
        yield port.set(window=None)


def empty_rows(port: Port, *, give: str) -> Iterator[Port]:
    """A query that sees no key gets something else than zero."""
    if port.mask is not None or port.setting.is_causal:
        yield replace(port, empty_rows=give)


MASKS: tuple[Suspect, ...] = (
    Suspect(
        "mask inverted",
        "hides what the mask shows and shows what it hides, as an additive mask of 0 and -inf does that is cast "
        "to boolean",
        "invert the mask (True means that the query attends to the key), or compare an additive one with 0",
        inverted,
    ),
    Suspect("mask missing", "takes no mask", "pass the mask", unmasked),
    Suspect(
        "mask transposed",
        "takes the rows of the mask for keys",
        "exchange the last two axes of the mask: (query, key)",
        mask_transposed,
    ),
    Suspect(
        "causal mask missing", "sees later positions", "hide the keys after the query's position", not_causal
    ),
    Suspect("causal mask added", "hides later positions", "leave the causal mask out", causal),
    Suspect(
        "causal mask in the other corner",
        "lines the causal mask up with the other corner: the upper left and the lower right one are exchanged",
        "set the offset of the first query: 0 is upper left, key length - query length is lower right",
        other_corner,
    ),
    Suspect(
        "causal mask hides the diagonal",
        "hides each query's own position",
        "keep the diagonal: key position <= query position",
        partial(diagonal_moved, by=-1),
    ),
    Suspect(
        "causal mask one late",
        "sees one position after the query's own",
        "end at the diagonal: key position <= query position",
        partial(diagonal_moved, by=1),
    ),
    Suspect(
        "window one too wide",
        "sees one key more than the window counts",
        "count the query's own key in the window: W keys in all",
        partial(window_resized, by=1),
    ),
    Suspect(
        "window one too narrow",
        "sees one key fewer than the window counts",
        "count W keys in the window, the query's own included",
        partial(window_resized, by=-1),
    ),
    Suspect("window missing", "sees all earlier keys", "hide the keys before the window", without_window),
    Suspect(
        "mean for queries that see nothing",
        "gives a query that sees no key the mean of all values",
        "set the weights of such a query to zero: the least number instead of -inf makes them equal",
        partial(empty_rows, give="mean"),
    ),
    Suspect(
        "unmasked queries that see nothing",
        "lets a query that sees no key see all of them",
        "set the weights of such a query to zero: a number added to every score changes no softmax",
        partial(empty_rows, give="unmasked"),
    ),
    Suspect(
        "NaN for queries that see nothing",
        "gives a query that sees no key NaN",
        "set the weights of such a query to zero: the softmax of -inf alone is 0 / 0",
        partial(empty_rows, give="nan"),
    ),
)
