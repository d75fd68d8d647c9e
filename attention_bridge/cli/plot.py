"""The command `attention-bridge plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attention_bridge.cli.choices import options
from attention_bridge.cli.paths import path as a_path
from attention_bridge.errors import InputError, require


def plot(
    source: Annotated[
        Path, typer.Argument(parser=a_path, help="File of attention weights: .npz or .safetensors.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", parser=a_path, help="Page (.html) or picture (.png, .svg) to write."),
    ],
    layer: Annotated[int | None, typer.Option(help="Layer, counted from 0.", show_default="all")] = None,
    head: Annotated[int | None, typer.Option(help="Head, counted from 0.", show_default="all")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens as a,b,c, or @FILE with one per line.")] = None,
    key_tokens: Annotated[str | None, typer.Option(help="Tokens of the keys, for cross-attention.")] = None,
) -> None:
    """Draw attention weights from a file, as an interactive page or as a picture.

    Example: attention-bridge plot weights.npz -o weights.html --tokens the,cat,sat
    """
    if output.suffix.lower() not in (".html", ".png", ".svg"):
        raise InputError(f"--output must end in .html, .png or .svg, got {output}")
    if not output.parent.is_dir():
        raise InputError(f"--output must be in a directory that exists, but {output.parent} does not exist")
    is_page = output.suffix.lower() == ".html"
    if not is_page:
        require(["matplotlib"], extra="plot")
    from attention_bridge import plots
    from attention_bridge.plots import arrays, weight_files

    stored = weight_files.read_weights(source)
    queries = stored.tokens if tokens is None else weight_files.read_tokens("--tokens", tokens)
    keys = stored.key_tokens if key_tokens is None else weight_files.read_tokens("--key-tokens", key_tokens)
    shape = arrays.layers_of("weights", stored.layers).shape
    for option, index, length in (("--layer", layer, shape[0]), ("--head", head, shape[1])):
        if index is not None:
            arrays.place(option, index, length)

    named = ", ".join(f"{name} {i}" for name, i in (("layer", layer), ("head", head)) if i is not None)
    title = source.stem if is_page else named.capitalize() or source.stem
    with options(query_tokens="--tokens", key_tokens="--key-tokens"):
        plots.plot(list(stored.layers), output, queries, keys, layer=layer, head=head, title=title)
    size = f": {plots.pages.size(output.stat().st_size)}" if is_page else ""
    typer.echo(f"{output}{size}")
