"""Arguments and options that the commands for texts share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attention_bridge.cli.choices import choice
from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.progress import warn
from attention_bridge.errors import InputError

if TYPE_CHECKING:
    from attention_bridge.pretrained.text import TextModel

FRAMEWORKS = ("torch", "jax")
DTYPES = ("auto", "float32", "bfloat16", "float16")

Directory = Annotated[
    Path,
    typer.Argument(parser=a_path, metavar="DIR", help="Directory of a model with its tokenizer."),
]
Framework = Annotated[
    str | None,
    typer.Option(
        "--framework",
        parser=choice("--framework", FRAMEWORKS),
        metavar="torch|jax",
        help="Framework that runs the model.",
        show_default="torch if it is installed, else jax",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        parser=choice("--dtype", DTYPES),
        metavar="|".join(DTYPES),
        help="Dtype of the weights; auto keeps the checkpoint's.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def open_model(
    directory: Path,
    framework: str | None,
    dtype: str,
    command: str,
    kinds: tuple[str, ...],
    *,
    warning: Callable[[str], object] = warn,
) -> TextModel:
    """Load the model and the tokenizer of a directory for a command; warnings are one line on stderr.

    Raises:
        InputError: the command does not run this kind of model.
    """
    from attention_bridge.pretrained.text import TextModel
    from attention_bridge.pretrained.text.kinds import check, check_configuration

    check_configuration(command, kinds, directory)
    model = TextModel.open(directory, framework, dtype=dtype, warn=warning)
    check(model.model, command, kinds, directory)
    return model


def checked(option: str, text: str) -> str:
    """The text.

    Raises:
        InputError: it is blank, or is not valid Unicode.
    """
    if not text.strip():
        raise InputError(f"{option} must be a text, got {text!r}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{option} must be UTF-8 text, got {text!r}")
    return text
