"""The command `embed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.progress import warn
from attention_bridge.cli.text_options import Directory, Dtype, Framework, Json, checked, open_model
from attention_bridge.errors import InputError, cut, printable


def embed(
    directory: Directory,
    text: Annotated[list[str] | None, typer.Option(help="A text; repeatable.")] = None,
    output: Annotated[
        Path | None, typer.Option(parser=a_path, metavar="PATH", help="File to write the vectors to, .npy.")
    ] = None,
    similarity: Annotated[
        bool, typer.Option("--similarity", help="Print the cosine similarity of each pair of texts.")
    ] = False,
    framework: Framework = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Compute sentence embeddings, with the pooling and normalisation that sentence-transformers describes.

    Prints one JSON object per text, unless --output or --similarity is given.

    Example: attention-bridge embed path/to/model --text "A cat." --text "A dog." --similarity
    """
    import numpy as np

    from attention_bridge.checkpoints.atomic import replacing
    from attention_bridge.pretrained import text as texts
    from attention_bridge.pretrained.text import kinds
    from attention_bridge.pretrained.text.embedding import similarities
    from attention_bridge.pretrained.text.sentence_modules import transformer_folder

    given = [checked("--text", each) for each in text or ()]
    if not given:
        raise InputError("--text must be given at least once")
    if similarity and len(given) < 2:
        raise InputError("--similarity needs at least two texts, got one")
    if output is not None:
        _check_output(output)
    model = open_model(transformer_folder(directory), framework, dtype, "embed", kinds.EMBEDDERS)
    vectors = texts.embed(model, given, directory=directory, warn=warn)
    cosines = similarities(vectors) if similarity else None
    if output is not None:
        with replacing(output) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
    rows: list[dict[str, Any]] = [
        {"text": each, "embedding": _numbers(row)} for each, row in zip(given, vectors, strict=True)
    ]
    if as_json:
        reply: dict[str, Any] = {"embeddings": rows, "framework": model.framework}
        if cosines is not None:
            reply["similarity"] = [_numbers(row) for row in cosines]
        typer.echo(json.dumps(reply, ensure_ascii=False))
    elif cosines is not None:
        for each, values in zip(given, cosines, strict=True):
            typer.echo("  ".join([*(f"{x:7.4f}" for x in values), printable(cut(each, 60))]))
    elif output is None:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))


def _check_output(output: Path) -> None:
    """Raise unless vectors can be written to `output`."""
    if output.suffix != ".npy":
        raise InputError(f"--output must end in .npy, got {output}")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise InputError(f"--output must be a file in a directory that exists, got {output}")


def _numbers(row: Any) -> list[float]:
    """The numbers with the 9 digits that determine a float32."""
    return [float(f"{x:.9g}") for x in row.tolist()]
