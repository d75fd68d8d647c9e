"""Each mask of the mirrors for the words of the sentence."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from attention_bridge.plots.gallery.sentence import DOCUMENTS, WORDS, numbers

LENGTH = len(WORDS)
# The call of each mask, given the module and a function that makes an array of the framework.
CALLS: dict[str, Callable[[Any, Callable[[np.ndarray], Any]], Any]] = {
    "causal_mask": lambda m, array: m.causal_mask(LENGTH),
    "sliding_window_mask": lambda m, array: m.sliding_window_mask(LENGTH, window=6),
    "chunked_mask": lambda m, array: m.chunked_mask(LENGTH, chunk_size=6),
    "streaming_mask": lambda m, array: m.streaming_mask(LENGTH, num_sinks=2, window=5),
    "prefix_mask": lambda m, array: m.prefix_mask(LENGTH, prefix_len=8),
    "padding_mask": lambda m, array: m.padding_mask(array(_padded()), pad_id=-1),
    "length_mask": lambda m, array: m.length_mask(array(np.array([15], np.int32)), LENGTH),
    "document_mask": lambda m, array: m.document_mask(array(DOCUMENTS.astype(np.int32)[None])),
    "and_masks": lambda m, array: m.and_masks(
        m.causal_mask(LENGTH), m.document_mask(array(DOCUMENTS.astype(np.int32)[None]))
    ),
    "or_masks": lambda m, array: m.or_masks(
        m.causal_mask(LENGTH), m.length_mask(array(np.array([8], np.int32)), LENGTH)
    ),
    "not_mask": lambda m, array: m.not_mask(m.causal_mask(LENGTH)),
}
NOTES = {
    "sliding_window_mask": "window=6",
    "chunked_mask": "chunk_size=6",
    "streaming_mask": "num_sinks=2, window=5",
    "prefix_mask": "prefix_len=8",
    "padding_mask": "two padding tokens at the end",
    "length_mask": "15 words, then padding",
    "document_mask": "three phrases in one row",
    "and_masks": "causal and document",
    "or_masks": "causal or the first 8",
    "not_mask": "not causal",
}


def masks(framework: str) -> dict[str, np.ndarray]:
    """Compute every mask, `(24, 24)`, by the name of its function, with the mirror of a framework."""
    module = importlib.import_module(f"{framework}_attention.masks")
    array: Callable[[np.ndarray], Any]
    if framework == "torch":
        import torch

        array = torch.from_numpy
    else:
        import jax.numpy as jnp

        array = jnp.asarray
    made = {name: np.asarray(call(module, array)) for name, call in CALLS.items()}
    return {name: np.broadcast_to(x, (1, 1, LENGTH, LENGTH))[0, 0] for name, x in made.items()}


def _padded() -> np.ndarray:
    tokens = numbers()[None].copy()
    tokens[:, -2:] = -1
    return tokens
