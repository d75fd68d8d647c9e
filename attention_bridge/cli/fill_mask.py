"""The command `fill-mask`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from attention_bridge.cli.text_options import Directory, Dtype, Framework, Json, checked, open_model
from attention_bridge.errors import InputError, printable


def fill_mask(
    directory: Directory,
    text: Annotated[str, typer.Argument(help="Text with the mask token of the tokenizer, such as [MASK].")],
    top_k: Annotated[int, typer.Option(help="Number of tokens per mask.")] = 5,
    framework: Framework = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Predict the masked tokens of a text with a masked language model.

    Example: attention-bridge fill-mask path/to/bert "Paris is the [MASK] of France."
    """
    from attention_bridge.pretrained import text as texts
    from attention_bridge.pretrained.text import kinds

    if top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {top_k}")
    model = open_model(directory, framework, dtype, "fill-mask", kinds.MASKED)
    found = texts.fill_mask(model, checked("the text", text), top_k=top_k)
    if as_json:
        reply = {"masks": [[each._asdict() for each in row] for row in found], "framework": model.framework}
        typer.echo(json.dumps(reply, ensure_ascii=False))
        return
    for i, row in enumerate(found):
        if i:
            typer.echo()
        for each in row:
            typer.echo(
                f"{each.probability:.4f}  {printable(each.text.strip()):16}  {printable(each.sequence)}"
            )
