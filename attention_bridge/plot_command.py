"""The command `attention-bridge plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attention_bridge.errors import InputError
from attention_bridge.extras import require
from attention_bridge.paths import path as a_path


def plot(
    source: Annotated[Path, typer.Argument(parser=a_path, help="Attention weights: .npz or .safetensors.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", parser=a_path, help="A page, .html, or a picture: .png or .svg.")
    ],
    layer: Annotated[int | None, typer.Option(help="Which, from 0.", show_default="all")] = None,
    head: Annotated[int | None, typer.Option(help="Which, from 0.", show_default="all")] = None,
    tokens: Annotated[str | None, typer.Option(help="a,b,c or @FILE with one a line.")] = None,
    key_tokens: Annotated[str | None, typer.Option(help="The same, for keys in cross-attention.")] = None,
) -> None:
    """Draw attention weights from a file: as a page to point at tokens in, or as a picture."""
    if output.suffix.lower() not in (".html", ".png", ".svg"):
        raise InputError(f"--output must end in .html, .png or .svg, got {output}")
    if not output.parent.is_dir():
        raise InputError(f"--output must be in a directory that exists, but {output.parent} is none")
    is_page = output.suffix.lower() == ".html"
    if not is_page:
        require(["matplotlib"], extra="demo")
    from attention_bridge import plots
    from attention_bridge.plots import arrays, reading

    stored = reading.read_weights(source)
    queries = stored.tokens if tokens is None else reading.read_tokens("--tokens", tokens)
    keys = stored.key_tokens if key_tokens is None else reading.read_tokens("--key-tokens", key_tokens)
    shape = arrays.layers_of("weights", stored.layers).shape
    for option, index, length in (("--layer", layer, shape[0]), ("--head", head, shape[1])):
        if index is not None:
            arrays.place(option, index, length)

    if is_page:
        if keys is None and shape[2] != shape[3]:
            keys = list(map(str, range(shape[3])))
        names = list(map(str, range(shape[2]))) if queries is None else queries
        written = plots.write_html(
            output, stored.layers, names, keys, layer=layer or 0, head=head or 0, title=source.stem
        )
        typer.echo(f"{output}: {plots.pages.size(written)}")
        return
    title = ", ".join(
        f"{name} {i}" for name, i in (("layer", layer), ("head", head)) if i is not None
    ).capitalize()
    if shape[:2] == (1, 1) or (head is not None and (layer is not None or shape[0] == 1)):
        one = stored.layers[layer or 0]
        figure = plots.one_head(one, queries, keys, head=head or 0, title=title or source.stem)
    else:
        chosen = [None if i is None else [i] for i in (layer, head)]
        figure = plots.head_grid(
            stored.layers, queries, keys, layers=chosen[0], heads=chosen[1], title=title or source.stem
        )
    plots.save(figure, output)
    typer.echo(str(output))
