"""The tokenizer of a model's directory: from texts to token ids and back, without transformers.

tokenizer = Tokenizer.open("path/to/bert")
ids, mask, token_types = tokenizer.encode(["Attention is all you need.", "Yes."])
tokenizer.decode(ids[0])
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.pretrained.text import tokenizer_classes, tokenizer_files
from attention_bridge.pretrained.text.encoded import Encoded, check_texts, padded
from attention_bridge.pretrained.text.special_words import SpecialWords

LONGEST = 10**9  # transformers writes 10^30 for tokenizers without a longest length
DECODERS = ("ForCausalLM", "LMHeadModel")

Side = Literal["left", "right"]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


@dataclass
class Tokenizer:
    """Tokenizer of a directory, with the token ids of `transformers.AutoTokenizer`.

    Attributes:
        directory: directory of the files.
        backend: the `tokenizers.Tokenizer`.
        words: special tokens by name.
        padding_side: side of the padding tokens.
        longest: maximum number of tokens of a text; longer texts are truncated; None for no limit.
        truncation_side: side on which longer texts lose tokens.
        warn: function called with one line when texts are truncated.
    """

    directory: Path
    backend: Any
    words: SpecialWords
    padding_side: Side = "right"
    longest: int | None = None
    truncation_side: Side = "right"
    warn: Callable[[str], object] = field(default=_warn, repr=False)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        padding_side: Side | None = None,
        warn: Callable[[str], object] = _warn,
    ) -> Self:
        """Read the tokenizer of a directory: `tokenizer.json`, or `vocab.txt`, or `vocab.json` with `merges.txt`.

        Args:
            directory: directory of the model.
            padding_side: "left" or "right"; None for left in a causal language model, else for the side in
                `tokenizer_config.json`, or right.
            warn: function called with one line when texts are truncated.

        Raises:
            CheckpointError: a file is missing or damaged.
            InputError: the package `tokenizers` is missing.
        """
        files = tokenizer_files.TokenizerFiles.open(directory)
        words = SpecialWords.read(files)
        backend = files.build(words.named.get("unk_token"))
        words.add_to(backend)
        tokenizer_classes.adapt(backend, files, words)
        backend.no_padding()
        backend.no_truncation()
        longest = files.fields.get("model_max_length")
        side = files.fields.get("padding_side")
        return cls(
            files.directory,
            backend,
            words,
            padding_side or ("left" if is_decoder(files.config) or side == "left" else "right"),
            longest if type(longest) is int and 0 < longest < LONGEST else None,
            "left" if files.fields.get("truncation_side") == "left" else "right",
            warn,
        )

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> Encoded:
        """Convert texts to token ids; longer ones than `longest` are truncated, with a warning.

        Args:
            texts: the texts, at least one.
            pairs: second text of each text; None for none.
            add_special_tokens: whether to add special tokens, such as `[CLS]` and `[SEP]`; False for a rendered chat.

        Raises:
            InputError: there is no text, a text is not valid Unicode, or texts and pairs differ in number.
        """
        return self.padded(self.encodings(texts, pairs, add_special_tokens=add_special_tokens))

    def padded(self, rows: Sequence[Any]) -> Encoded:
        """Arrays of the token ids of `encodings`, padded to the longest."""
        return padded(rows, self.pad_id, on_the_left=self.padding_side == "left")

    def encodings(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        truncate: Literal["longest_first", "only_first", "only_second"] = "longest_first",
    ) -> list[Any]:
        """The `tokenizers.Encoding` of each text, without padding: ids, tokens, and offsets in the text.

        Args:
            texts, pairs, add_special_tokens: as in `encode`.
            truncate: text of a pair that loses tokens.
        """
        check_texts(texts, pairs)
        self.backend.no_truncation()
        if self.longest is not None:
            self.backend.enable_truncation(self.longest, strategy=truncate, direction=self.truncation_side)
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        try:
            rows: list[Any] = self.backend.encode_batch(given, add_special_tokens=add_special_tokens)
        except Exception as error:  # the library raises nothing more specific
            raise InputError(f"the text cannot be tokenised: {error}") from error
        if cut := sum(bool(row.overflowing) for row in rows):
            self.warn(
                f"{cut} of {len(rows)} texts {'is' if cut == 1 else 'are'} longer than {self.longest} tokens: truncated"
            )
        return rows

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special_tokens: bool = True) -> str:
        """Convert token ids to text.

        Args:
            ids: token ids of one text.
            skip_special_tokens: whether to leave out special tokens.
        """
        text: str = self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)
        return text

    @property
    def vocab_size(self) -> int:
        """Number of tokens, with the added tokens."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def added_tokens(self) -> dict[str, int]:
        """Ids of the added tokens, special ones included."""
        return {token.content: i for i, token in sorted(self.backend.get_added_tokens_decoder().items())}

    @property
    def pad_token(self) -> str | None:
        """The padding token; None for none."""
        return self.words.named.get("pad_token")

    @property
    def mask_token(self) -> str | None:
        """The token that a masked language model predicts, such as `[MASK]`; None for none."""
        return self.words.named.get("mask_token")

    @property
    def pad_id(self) -> int:
        """Id of the padding token; without one, of the end token, or 0."""
        return next((i for name in ("pad_token", "eos_token") if (i := self.id_of(name)) is not None), 0)

    def id_of(self, name: str) -> int | None:
        """Id of a special token, given its name, such as `mask_token`; None for none."""
        word = self.words.named.get(name)
        found: int | None = None if word is None else self.backend.token_to_id(word)
        return found


def is_decoder(config: dict[str, Any]) -> bool:
    """Whether a `config.json` describes a causal language model."""
    return any(str(name).endswith(DECODERS) for name in config.get("architectures") or ())
