"""Files of a tokenizer: found, read, and built into a `tokenizers.Tokenizer`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from attention_bridge.errors import CheckpointError, require
from attention_bridge.pretrained.config_files import read_json

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
# Classes of tokenizers by `model_type`, for directories that name none.
CLASSES = {
    "albert": "AlbertTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
}
# Classes by `model_type` where transformers ignores the class that files name; empty for `tokenizer.json` as it is.
FIXED = {"mistral": "", "mixtral": "", "phi3": "", "qwen2": "Qwen2Tokenizer"}
WORD_PIECE = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
BYTE_LEVEL = ("BartTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "RobertaTokenizer")


@dataclass(frozen=True)
class TokenizerFiles:
    """The JSON files of a tokenizer.

    Attributes:
        directory: the directory.
        config: content of `config.json`; empty without the file.
        fields: content of `tokenizer_config.json`; empty without the file.
        kind: class of transformers for this tokenizer, without the suffix `Fast`; empty if unknown.
    """

    directory: Path
    config: dict[str, Any]
    fields: dict[str, Any]
    kind: str

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Self:
        """Read the JSON files of a directory.

        Raises:
            CheckpointError: there is no such directory, or a file is damaged.
            InputError: the package `tokenizers` is missing.
        """
        require(("tokenizers",), extra="text")
        path = Path(directory)
        if not path.exists():
            raise CheckpointError(
                f"{path} does not exist: expected the directory of a model with its tokenizer"
            )
        if not path.is_dir():
            raise CheckpointError(f"{path} must be a directory with a tokenizer, but is none")
        config, fields = (optional(path / name) for name in ("config.json", "tokenizer_config.json"))
        given = fields.get("tokenizer_class") or config.get("tokenizer_class")
        model_type = str(config.get("model_type"))
        kind = str(given or CLASSES.get(model_type, "")).removesuffix("Fast")
        kind = FIXED.get(model_type, kind)
        return cls(path, config, fields, kind)

    def build(self, unknown: str | None = None) -> Any:
        """Build the `tokenizers.Tokenizer` from the first of the known files.

        Args:
            unknown: token for words that a `vocab.txt` lacks; None for `[UNK]`.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        path = self.directory / FILES[0]
        if path.is_file():
            return _parsed(path)
        if (vocab := self.directory / "vocab.txt").is_file() and (not self.kind or self.kind in WORD_PIECE):
            return _word_piece(vocab, unknown or "[UNK]")
        vocab, merges = self.directory / "vocab.json", self.directory / "merges.txt"
        if vocab.is_file() and merges.is_file() and (not self.kind or self.kind in BYTE_LEVEL):
            return _byte_pairs(vocab, merges)
        raise CheckpointError(self._refusal())

    def _refusal(self) -> str:
        """The reason why no tokenizer can be built, in one sentence."""
        present = [name for name in FILES if (self.directory / name).is_file()]
        pieces = sorted(path.name for path in self.directory.glob("*.model"))
        made = "write it with transformers: AutoTokenizer.from_pretrained(d).save_pretrained(d) for this directory d"
        if pieces and not present:
            return f"{self.directory} has {pieces[0]} but no tokenizer.json: {made} (needs sentencepiece)"
        if present == ["vocab.json"]:
            return f"{self.directory} has vocab.json, but merges.txt is missing"
        if present == ["merges.txt"]:
            return f"{self.directory} has merges.txt, but vocab.json is missing"
        if present:
            return f"{self.directory} has the {' and '.join(present)} of a {self.kind}, but no tokenizer.json: {made}"
        return (
            f"{self.directory} has no tokenizer: expected tokenizer.json, or vocab.txt, or vocab.json and "
            "merges.txt; copy it from the original model"
        )


def optional(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is no such file."""
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content


def _parsed(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from error


def _word_piece(path: Path, unknown: str) -> Any:
    from tokenizers import Tokenizer, models

    try:
        return Tokenizer(models.WordPiece.from_file(str(path), unk_token=unknown))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{path} is not a vocabulary with one token per line: {error}") from error


def _byte_pairs(vocab: Path, merges: Path) -> Any:
    from tokenizers import Tokenizer, models

    try:
        return Tokenizer(models.BPE.from_file(str(vocab), str(merges), fuse_unk=False))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{vocab} and {merges.name} are not a byte-level BPE: {error}") from error
