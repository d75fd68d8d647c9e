"""Token ids of several texts as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.errors import InputError


class Encoded(NamedTuple):
    """Token ids of several texts, padded to the longest.

    Attributes:
        ids: token ids, `(text, position)`, int32.
        mask: boolean mask, `(text, position)`, True at real tokens.
        token_types: 0 for the tokens of a text and 1 for the tokens of its pair, `(text, position)`, int32.
    """

    ids: np.ndarray
    mask: np.ndarray
    token_types: np.ndarray


def padded(rows: Sequence[Any], pad_id: int, *, on_the_left: bool) -> Encoded:
    """Arrays of encodings of `tokenizers`, padded to the longest.

    Args:
        rows: the encodings, at least one.
        pad_id: id of the padding token.
        on_the_left: whether padding comes before the text.
    """
    length = max(len(row.ids) for row in rows)
    shape = (len(rows), length)
    ids = np.full(shape, pad_id, np.int32)
    mask, types = np.zeros(shape, np.bool_), np.zeros(shape, np.int32)
    for i, row in enumerate(rows):
        count = len(row.ids)
        at = slice(length - count, length) if on_the_left else slice(count)
        ids[i, at], mask[i, at], types[i, at] = row.ids, True, row.type_ids
    return Encoded(ids, mask, types)


def check_texts(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    """Raise `InputError` unless there is a text, and as many pairs as texts, all of valid Unicode."""
    if isinstance(texts, str) or isinstance(pairs, str):
        raise InputError("texts and pairs must be lists of texts, got one text")
    if not texts:
        raise InputError("texts must hold at least one text, got none")
    if pairs is not None and len(pairs) != len(texts):
        raise InputError(f"pairs must be as many as texts, {len(texts)}, got {len(pairs)}")
    for text in (*texts, *(pairs or ())):
        if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"a text must be valid Unicode, got {text!r}")
