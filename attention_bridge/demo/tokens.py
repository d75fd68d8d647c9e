"""Tokenisation of the sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.demo.checkpoint import SentenceEncoder
from attention_bridge.errors import CheckpointError, InputError

MAX_WEIGHTS = 1 << 28  # elements: the attention weights of one run take at most 1 GiB


class Batch(NamedTuple):
    """Tokenised sentences, padded to the longest.

    Attributes:
        tokens: token ids, `(sentence, position)`, int32.
        lengths: number of tokens per sentence without padding, `(sentence,)`.
        words: texts of the tokens per sentence, without padding.
        cut: number of sentences truncated to the model's maximum length.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    words: list[list[str]]
    cut: int

    @property
    def real(self) -> np.ndarray:
        """Boolean mask of the tokens, `(sentence, position)`, False for padding."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]


def tokenise(encoder: SentenceEncoder, texts: Sequence[str]) -> Batch:
    """Tokenise texts with the checkpoint's `tokenizer.json`.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to another vocabulary.
        InputError: the attention weights of all sentences would take too much memory.
    """
    from tokenizers import Tokenizer

    path = encoder.directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; the checkpoint's tokenizer is expected there")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    cut = sum(len(encoding) > encoder.max_tokens for encoding in tokenizer.encode_batch(texts))
    tokenizer.enable_truncation(encoder.max_tokens)
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)

    tokens = np.array([encoding.ids for encoding in encodings], np.int32)
    lengths = np.array([sum(encoding.attention_mask) for encoding in encodings], np.int32)
    _check_vocabulary(tokens, encoder)
    _check_memory(tokens, encoder.config)
    words = [encoding.tokens[:length] for encoding, length in zip(encodings, lengths, strict=True)]
    return Batch(tokens, lengths, words, cut)


def _check_vocabulary(tokens: np.ndarray, encoder: SentenceEncoder) -> None:
    largest, size = int(tokens.max()), encoder.config["vocab_size"]
    if largest >= size:
        raise CheckpointError(
            f"{encoder.directory} must have a tokenizer of {size} tokens, as its config.json says, "
            f"but got token number {largest}"
        )


def _check_memory(tokens: np.ndarray, config: Mapping[str, Any]) -> None:
    count, length = tokens.shape
    weights = config["num_layers"] * config["num_heads"] * count * length**2
    if weights > MAX_WEIGHTS:
        raise InputError(
            f"expected sentences with at most {MAX_WEIGHTS:,} attention weights, "
            f"got {weights:,} ({count} sentences, up to {length} tokens); give fewer or shorter ones"
        )
