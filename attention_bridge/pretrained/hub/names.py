"""Names, addresses and files of models on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from attention_bridge.checkpoints.format_detection import named
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.families.shown import shown

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
PAGES = ("tree", "blob", "resolve", "raw")  # of a repository, followed by a revision
EXPECTED = (
    "expected a file, a directory, or a model on the Hugging Face Hub as 'name', 'owner/name' or "
    "'owner/name@revision'"
)


class Remote(NamedTuple):
    """A model on the Hugging Face Hub.

    Attributes:
        name: `name` or `owner/name`.
        revision: branch, tag or commit; None for the default branch.
        file: path of one file in the repository, the only weights to download; "" for the usual weights.
    """

    name: str
    revision: str | None
    file: str


def looks_local(text: str) -> bool:
    """Whether a text is a path and no name on the Hugging Face Hub."""
    if "://" in text:
        return False
    if text.startswith(("/", "./", "../", "~")) or text in (".", "..") or "\\" in text or text.endswith("/"):
        return True
    if text.count("/") > 1 and Path(text.partition("/")[0]).is_dir():
        return True
    return named(Path(text)) is not None and text.count("/") < 2


def remote_of(text: str, revision: str | None) -> Remote:
    """The model that a text names.

    Raises:
        CheckpointError: it names none.
        InputError: it has another revision than the given one.
    """
    if ("://" in text and not text.startswith("hf://")) or text.startswith(
        tuple(f"{host}/" for host in HOSTS)
    ):
        found = _of_address(text)
    else:
        found = _of_name(text.removeprefix("hf://").removeprefix("models/"))
    if found.revision and revision is not None and found.revision != revision:
        raise InputError(f"revision must be given once, got {text!r} and revision={revision!r}")
    name, file = found.name, found.file
    if not NAME.fullmatch(name) or ".." in name:
        raise CheckpointError(f"{shown(text)} does not exist and names no model: {EXPECTED}")
    if file and named(Path(file)) is None:
        raise CheckpointError(
            f"{shown(text)} does not exist, and a directory inside a model cannot be loaded: download it with "
            f"`hf download {name} --include '{file}/*' --local-dir DIR`, and give DIR/{file}"
        )
    return Remote(name, found.revision or revision, file)


def _of_name(text: str) -> Remote:
    """The model of `owner/name@revision/file`, of which all but the name may be absent."""
    plain, _, revision = text.partition("@")
    before, _, last = revision.rpartition("/")  # a revision may have a slash, as in `refs/pr/1`
    parts = plain.split("/")
    if before and named(Path(last)) is not None:
        revision, parts = before, [*parts, last]
    return Remote("/".join(parts[:2]), revision or None, "/".join(parts[2:]))


def _of_address(text: str) -> Remote:
    """The model of a page's address, such as https://huggingface.co/owner/name/blob/main/file.

    Raises:
        CheckpointError: it is no page of a model on the Hugging Face Hub.
    """
    address = text.partition("://")[2] if "://" in text else text
    host, _, path = address.partition("?")[0].partition("#")[0].partition("/")
    hosts = {*HOSTS, os.environ.get("HF_ENDPOINT", "").rpartition("://")[2].rstrip("/")}
    parts = path.strip("/").split("/")
    if host.lower() not in hosts or not path or parts[0] in ("datasets", "spaces", "docs"):
        raise CheckpointError(
            f"{shown(text)} is no page of a model: expected an address such as https://{HOSTS[0]}/owner/name"
        )
    at = next((i for i in (1, 2) if parts[i : i + 1] and parts[i] in PAGES), min(2, len(parts)))
    after = parts[at + 1 :]
    return Remote("/".join(parts[:at]), after[0] if after else None, "/".join(after[1:]))
