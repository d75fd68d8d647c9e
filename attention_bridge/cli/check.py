"""The command `check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attention_bridge.cli.choices import existing
from attention_bridge.cli.paths import path as a_path
from attention_bridge.errors import InputError, cut, printable

if TYPE_CHECKING:
    from attention_bridge.parity.certificates import Certificate


def check(
    certificate: Annotated[
        Path, typer.Argument(parser=a_path, help="A certificate, as --certify or certify() writes it.")
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            parser=existing("--root"),
            metavar="DIR",
            help="Directory that the paths in the certificate are relative to.",
            show_default="its own",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check hashes, bounds and verdict; run nothing.")
    ] = False,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="For a certificate of two modules: a function that returns certify() of them. Its code runs.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Verify a certificate: the hashes of its files, and the comparison, which is run again from its seeds.

    Example: attention-bridge check gpt2.cert.json
    """
    from attention_bridge.pretrained.certification import check_certificate

    made = None if models is None else _function(models)
    findings = check_certificate(certificate, root=root, quick=quick, models=made)
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in findings], indent=2))
    else:
        for each in findings:
            typer.echo(printable(str(each)))
    if not all(each.ok for each in findings):
        raise typer.Exit(1)


def _function(text: str) -> Callable[[], Certificate]:
    """The function that a text such as mine.py:certified names; its file is run when the function is called.

    Raises:
        InputError: the text names no function of a Python file.
    """
    from attention_bridge.errors import require
    from attention_bridge.parity.certificates import Certificate
    from attention_bridge.weights.layout_files import constant

    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise InputError(
            f"--models must be a file and a function, such as mine.py:certified, got {printable(text)}"
        )
    require(("torch", "jax", "flax"), extra="torch,jax")
    function = constant(Path(file), name)
    if not callable(function):
        raise InputError(f"--models must name a function of {file}, but {name} is none")

    def made() -> Certificate:
        try:
            found = function()
        except Exception as error:
            raise InputError(cut(f"{name} in {file} fails: {type(error).__name__}: {error}")) from error
        if not isinstance(found, Certificate):
            raise InputError(f"{name} in {file} must return a Certificate, got {type(found).__name__}")
        return found

    return made
