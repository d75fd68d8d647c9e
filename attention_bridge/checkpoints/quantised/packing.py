"""Whole numbers of a few bits in int32 words (GPTQ, AWQ)."""

from __future__ import annotations

import numpy as np

WORD = 32  # bits


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """Unpack the numbers along the last axis. The first one has the lowest bits, and a number may span two words.

    Args:
        words: int32 (..., words).
        bits: bits of a number: 2, 3, 4 or 8.

    Returns:
        uint8 (..., words * 32 / bits).
    """
    data: np.ndarray = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    if bits == 3:  # three bytes hold eight numbers
        parts = data.reshape(*data.shape[:-1], -1, 3).astype(np.uint32)
        data = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    each = 8 if bits == 3 else 8 // bits
    numbers = np.empty((*data.shape, each), np.uint8)
    for place in range(each):
        numbers[..., place] = data >> data.dtype.type(bits * place) & data.dtype.type(2**bits - 1)
    return numbers.reshape(*data.shape[:-1], -1)


def count(words: int, bits: int) -> int:
    """How many numbers that many words hold; 0 if they end within a number."""
    return words * WORD // bits if words * WORD % bits == 0 else 0
