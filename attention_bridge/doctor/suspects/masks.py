"""Mistakes in masks: polarity, causality, windows and fully masked rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from attention_bridge.doctor.port import Port
from attention_bridge.doctor.suspects.suspect import Suspect


def inverted(port: Port) -> Iterator[Port]:
    """Plant an inverted mask, in which True masks a key."""
    if port.mask is not None:
        yield replace(port, mask=~port.mask)


def unmasked(port: Port) -> Iterator[Port]:
    """Plant a missing mask."""
    if port.mask is not None:
        yield replace(port, mask=None)


def mask_transposed(port: Port) -> Iterator[Port]:
    """Plant a transposed mask, (key, query)."""
    if port.mask is not None and port.mask.shape[-1] == port.mask.shape[-2] > 1:
        yield replace(port, mask=port.mask.swapaxes(-1, -2))


def not_causal(port: Port) -> Iterator[Port]:
    """Plant a missing causal mask; with a window, also a window without its causal end."""
    if port.setting.is_causal:
        yield port.set(is_causal=False, window=None)
        if port.setting.window is not None:
            every = port.keys.shape[1]
            wide = port.set(window=port.setting.window + every)
            yield replace(wide, mask_offset=port.mask_offset + every)


def causal(port: Port) -> Iterator[Port]:
    """Plant a causal mask on a layer that has none."""
    if not port.setting.is_causal:
        yield port.set(is_causal=True)


def other_corner(port: Port) -> Iterator[Port]:
    """Plant a causal diagonal aligned with the lower right corner instead of the upper left one, or the reverse."""
    right = port.keys.shape[1] - port.x.shape[1]
    if port.setting.is_causal and right:
        offset = -right if port.setting.query_offset == right else right
        yield replace(port, mask_offset=offset)


def diagonal_moved(port: Port, *, by: int) -> Iterator[Port]:
    """Plant a shifted causal diagonal; a window keeps its first key, or shifts as a whole."""
    if port.setting.is_causal:
        moved = replace(port, mask_offset=port.mask_offset + by)
        if port.setting.window is not None:
            yield moved.set(window=max(port.setting.window + by, 1))
        yield moved


def window_resized(port: Port, *, by: int) -> Iterator[Port]:
    """Plant a window of more or fewer keys."""
    if port.setting.window is not None and port.setting.window + by > 0:
        yield port.set(window=port.setting.window + by)


def without_window(port: Port) -> Iterator[Port]:
    """Plant a missing window."""
    if port.setting.window is not None:
        yield port.set(window=None)


def empty_rows(port: Port, *, give: str) -> Iterator[Port]:
    """Plant an output other than zero for fully masked rows."""
    if port.mask is not None or port.setting.is_causal:
        yield replace(port, empty_rows=give)


MASKS: tuple[Suspect, ...] = (
    Suspect(
        "mask inverted",
        "masks the keys that it should attend to and the reverse, as an additive mask of 0 and -inf does when cast "
        "to boolean",
        "invert the mask (True means that the query attends to the key), or compare an additive one with 0",
        inverted,
    ),
    Suspect("mask missing", "ignores the mask", "pass the mask", unmasked),
    Suspect(
        "mask transposed",
        "reads the mask as (key, query)",
        "exchange the last two axes of the mask: (query, key)",
        mask_transposed,
    ),
    Suspect(
        "causal mask missing",
        "attends to later positions",
        "mask the keys after the query's position",
        not_causal,
    ),
    Suspect("causal mask added", "masks later positions", "remove the causal mask", causal),
    Suspect(
        "causal mask in the other corner",
        "aligns the causal mask with the wrong corner: upper left and lower right are exchanged",
        "set the offset of the first query: 0 is upper left, key length - query length is lower right",
        other_corner,
    ),
    Suspect(
        "causal mask hides the diagonal",
        "masks each query's own position",
        "include the diagonal: key position <= query position",
        partial(diagonal_moved, by=-1),
    ),
    Suspect(
        "causal mask one late",
        "attends to one position after the query's own",
        "end at the diagonal: key position <= query position",
        partial(diagonal_moved, by=1),
    ),
    Suspect(
        "window one too wide",
        "attends to one key more than the window allows",
        "count the query's own key in the window: W keys in all",
        partial(window_resized, by=1),
    ),
    Suspect(
        "window one too narrow",
        "attends to one key fewer than the window allows",
        "count W keys in the window, the query's own included",
        partial(window_resized, by=-1),
    ),
    Suspect(
        "window missing", "attends to all earlier keys", "mask the keys before the window", without_window
    ),
    Suspect(
        "mean for fully masked rows",
        "returns the mean of all values for fully masked rows (queries with no visible key)",
        "set the weights of such a row to zero: the smallest finite number instead of -inf makes them equal",
        partial(empty_rows, give="mean"),
    ),
    Suspect(
        "fully masked rows unmasked",
        "attends to all keys in fully masked rows (queries with no visible key)",
        "set the weights of such a row to zero: a constant added to every score does not change the softmax",
        partial(empty_rows, give="unmasked"),
    ),
    Suspect(
        "NaN for fully masked rows",
        "returns NaN for fully masked rows (queries with no visible key)",
        "set the weights of such a row to zero: the softmax of -inf alone is 0 / 0",
        partial(empty_rows, give="nan"),
    ),
)
