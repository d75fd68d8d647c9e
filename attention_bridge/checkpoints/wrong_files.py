"""Detection of files that are no whole checkpoint: unfinished downloads, Git LFS pointers, pages, archives."""

from __future__ import annotations

import codecs
from pathlib import Path

from attention_bridge.errors import CheckpointError

UNFINISHED = (
    ".incomplete",
    ".part",
    ".partial",
    ".crdownload",
    ".opdownload",
    ".download",
    ".aria2",
    ".filepart",
)
LFS = b"version https://git-lfs.github.com/spec/"
# Archives that no checkpoint is; zip files differ by their entries.
ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}
TAR = (257, b"ustar")  # offset and mark
START = 512  # bytes that are looked at
MARKUP = ((b"<!doctype html", "a web page"), (b"<html", "a web page"), (b"<?xml", "an XML text"))
AGAIN = "download it again"


def check_file(path: Path, *, text: bool = False) -> None:
    """Raise if a file is an unfinished download, a Git LFS pointer, a web page, an archive or empty.

    Args:
        path: the file; it must exist.
        text: True for files of text, such as `config.json`; False for files of tensors, which begin with other bytes.

    Raises:
        CheckpointError: it is one of them; the message names it and the remedy.
    """
    if reason := fault(path, text=text):
        raise CheckpointError(f"{path} {reason}")


def fault(path: Path, *, text: bool = False, content: bytes | None = None) -> str | None:
    """The reason why a file does not fit its name, as the end of a sentence, or None; see `check_file`.

    Args:
        path: the file.
        text: True for files of text.
        content: the file's content, or its beginning; None to read it.
    """
    if is_unfinished(path):
        return f"is an unfinished download: {AGAIN}"
    if content is not None:
        return _reason(content[:START], text)
    with path.open("rb") as file:
        return _reason(file.read(START), text)


def is_unfinished(path: Path) -> bool:
    """Whether a file has the name of an unfinished download, or a file beside it says so."""
    return path.suffix.lower() in UNFINISHED or path.with_name(f"{path.name}.aria2").exists()


def _reason(start: bytes, text: bool) -> str | None:
    """The fault of a file that begins with these bytes, with the remedy; None for no fault."""
    if not start:
        return f"is empty: {AGAIN}"
    if start.startswith(LFS):
        return f"is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory, or {AGAIN}"
    if not start.strip(b"\0"):
        return f"is an unfinished download: it begins with {len(start)} zero bytes; {AGAIN}"
    for mark, kind in ARCHIVES.items():
        if start.startswith(mark):
            return f"is an archive ({kind}): unpack it, and give the unpacked file"
    if start[TAR[0] :].startswith(TAR[1]):
        return "is an archive (tar): unpack it, and give the unpacked file"
    beginning = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for mark, kind in MARKUP:
        if beginning.startswith(mark):
            return f"is {kind}, not the file itself: {AGAIN}, from a link with /resolve/ instead of /blob/"
    if not text and _is_text(start):
        shown = " ".join(start[:60].decode(errors="ignore").split())[:40]
        return f"is a text that begins with {shown!r}, and holds no tensors: {AGAIN}"
    return None


def _is_text(start: bytes) -> bool:
    """Whether bytes are UTF-8 without control characters; the last character may be cut off."""
    try:
        found = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return bool(found) and all(character.isprintable() or character.isspace() for character in found)
