"""Sentence embeddings, as sentence-transformers computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from attention_bridge.pretrained.text import calls, kinds
from attention_bridge.pretrained.text.model import TextModel
from attention_bridge.pretrained.text.pooling import normalise, pool
from attention_bridge.pretrained.text.sentence_modules import SentenceModules, read_modules

BATCH = 32  # texts per call of the model


def embed(
    model: TextModel,
    texts: Sequence[str],
    *,
    directory: Path | None = None,
    warn: Callable[[str], object] | None = None,
) -> np.ndarray:
    """One vector per text, `(text, feature)`, float32.

    Pooling and normalisation are those in `modules.json`; without it, the mean over the tokens is taken.

    Args:
        model: an encoder, a decoder or an encoder-decoder, with or without a task head.
        texts: the texts, at least one.
        directory: directory with `modules.json`; None for the model's.
        warn: function called with one line if the directory does not describe the pooling; None for none.

    Raises:
        CheckpointError: a file is damaged, or describes a module that is not supported.
        InputError: the model takes no text, or a text has no token.
    """
    kind = kinds.check(model.model, "embed", kinds.EMBEDDERS, model.directory)
    place = model.directory if directory is None else directory
    modules = read_modules(place)
    has_head = modules is None and kind == "EmbeddingHead"
    if modules is None and not has_head and warn is not None:
        warn(f"{place} has no modules.json: the mean over the tokens, not normalised")
    found = modules or SentenceModules()
    limits = [x for x in (model.tokenizer.longest, found.longest) if x is not None]
    tokenizer = replace(model.tokenizer, longest=min(limits, default=None))
    given = [found.prompt + text for text in texts]
    rows = tokenizer.encodings([text.lower() for text in given] if found.lowercase else given)
    order = np.argsort([len(row.ids) for row in rows], kind="stable")  # texts of like length share a call
    vectors: dict[int, np.ndarray] = {}
    for start in range(0, len(rows), BATCH):
        chosen = order[start : start + BATCH]
        encoded = tokenizer.padded([rows[i] for i in chosen])
        (x,) = model.run(calls.embeddings if has_head else calls.hidden_states, encoded)
        pooled = x if has_head else pool(x, encoded.mask, found.modes)
        for step in found.steps:
            pooled = step(pooled)
        vectors.update(zip(chosen.tolist(), pooled.astype(np.float32), strict=True))
    return np.stack([vectors[i] for i in range(len(rows))])


def similarities(embeddings: np.ndarray) -> np.ndarray:
    """Cosine similarity of each pair of vectors."""
    unit = normalise(embeddings)
    return unit @ unit.T
