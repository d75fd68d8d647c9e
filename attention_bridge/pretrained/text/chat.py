"""Chat templates: messages become the prompt that an instruction model was trained on.

template = ChatTemplate.open("path/to/qwen", tokenizer.words.named)
prompt = template.render(messages("Who wrote Hamlet?", system="Answer briefly."))
ids = tokenizer.encode([prompt], add_special_tokens=False).ids  # the template writes the special tokens
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from attention_bridge.checkpoints import isolated
from attention_bridge.errors import CheckpointError, InputError, require
from attention_bridge.pretrained.text import chat_rendering
from attention_bridge.pretrained.text.tokenizer_files import optional

FILE, FOLDER = "chat_template.jinja", "chat_templates"
LARGEST = 2**20  # bytes of a template; usual ones have a few thousand
DEADLINE = 20.0  # seconds

Message = dict[str, str]


@dataclass(frozen=True)
class ChatTemplate:
    """Chat template of a directory.

    A template is a program of the model's author. It runs in jinja2's immutable sandbox, which reaches neither files
    nor Python's internals, in a child process with at most `DEADLINE` seconds, 1 GiB of memory and
    `chat_rendering.LONGEST` characters of output.

    Attributes:
        directory: directory of the model.
        source: the template.
        words: special tokens by name, such as `bos_token`, which templates use.
    """

    directory: Path
    source: str
    words: Mapping[str, str]

    @classmethod
    def open(cls, directory: str | os.PathLike[str], words: Mapping[str, str]) -> Self | None:
        """Read the template of a directory: `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`.

        Args:
            directory: directory of the model.
            words: special tokens by name; `Tokenizer.words.named`.

        Returns:
            The template; None if the directory has none.

        Raises:
            CheckpointError: a file is damaged, or there are several templates without a default one.
        """
        path = Path(directory)
        found = _files(path) or _of_config(path)
        if not found:
            return None
        if "default" not in found:
            raise CheckpointError(
                f"{path} has the chat templates {', '.join(sorted(found))}, but none with the name default"
            )
        if len(found["default"]) > LARGEST:
            raise CheckpointError(f"the chat template of {path} must have at most {LARGEST} bytes, got more")
        return cls(path, found["default"], words)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for a reply to the messages, as `apply_chat_template(..., add_generation_prompt=True)` writes it.

        Args:
            messages: dictionaries with `role` ("system", "user" or "assistant") and `content`.

        Raises:
            CheckpointError: the template is not valid, fails, or exceeds its limits.
            InputError: the package jinja2 is missing, or the template refuses the messages.
        """
        require(("jinja2",), extra="text")
        for name in ("jinja2", "markupsafe"):
            import_module(name)
        request = {"template": self.source, "messages": list(messages), "words": dict(self.words)}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            path = Path(directory).absolute() / "request.json"
            path.write_text(json.dumps(request))
            try:
                done = isolated.run(
                    Path(chat_rendering.__file__),
                    str(path),
                    modules=("jinja2", "markupsafe"),
                    timeout=DEADLINE,
                )
            except subprocess.TimeoutExpired as error:
                raise CheckpointError(
                    f"the chat template of {self.directory} must end within {DEADLINE:g} s, but does not"
                ) from error
        reply: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        if "text" in reply:
            text: str = reply["text"]
            return text
        if "refusal" in reply:
            raise InputError(
                f"the chat template of {self.directory} refuses the messages: {reply['refusal']}"
            )
        last = done.stderr.decode(errors="replace").rstrip().rpartition("\n")[2]
        reason = reply.get("error") or last or f"it ends with exit status {done.returncode}"
        raise CheckpointError(f"the chat template of {self.directory} cannot be rendered: {reason}")


def has_template(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory has a chat template, valid or not."""
    path = Path(directory)
    fields = optional(path / "tokenizer_config.json")
    return (
        (path / FILE).is_file() or any((path / FOLDER).glob("*.jinja")) or bool(fields.get("chat_template"))
    )


def messages(prompt: str, system: str | None = None) -> list[Message]:
    """A conversation of one user message, after a system message if there is one."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def _files(directory: Path) -> dict[str, str]:
    """The templates in files of their own, by name."""
    paths = {path.stem: path for path in sorted((directory / FOLDER).glob("*.jinja"))}
    if (directory / FILE).is_file():
        paths["default"] = directory / FILE
    return {name: _text(path) for name, path in paths.items()}


def _of_config(directory: Path) -> dict[str, str]:
    """The templates in `tokenizer_config.json`, by name."""
    given = optional(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(given, str):
        return {"default": given}
    if isinstance(given, Mapping):
        rows: list[Any] = [{"name": name, "template": text} for name, text in given.items()]
    else:
        rows = given if isinstance(given, list) else [] if given is None else [given]
    try:
        found = {str(row["name"]): row["template"] for row in rows}
        if not all(isinstance(text, str) for text in found.values()):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'} must give chat_template as text, or as a list of objects with "
            "name and template"
        ) from error
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1).decode()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} must be UTF-8 text, but is not") from error
