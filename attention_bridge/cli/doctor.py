"""The command `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attention_bridge.cli.choices import ACTIVATIONS, NORMS, ROPES, choice, layout, layouts, options
from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.progress import step
from attention_bridge.errors import InputError

# The options of the arguments of `Setting`.
OPTIONS = {
    "num_heads": "--heads",
    "num_kv_heads": "--kv-heads",
    "scale": "--scale",
    "softcap": "--softcap",
    "is_causal=True": "--causal",
    "window": "--window",
    "query_offset": "--query-offset",
    "rope": "--rope",
    "rope_base": "--base",
    "rope_dim": "--rope-dim",
    "norm_eps": "--norm-eps",
}


def doctor(
    case: Annotated[
        Path,
        typer.Argument(parser=a_path, help=".npz or .safetensors with x, reference, candidate and weights."),
    ],
    heads: Annotated[int, typer.Option(help="Number of query heads.")],
    kv_heads: Annotated[
        int | None, typer.Option(help="Number of key/value heads.", show_default="as --heads")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor on the scores.", show_default="1 / sqrt(head_dim)")
    ] = None,
    softcap: Annotated[
        float | None, typer.Option(help="Softcap c of the scores: c tanh(scores / c).")
    ] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Mask later positions.")] = False,
    window: Annotated[
        int | None, typer.Option(help="Number of visible keys, including the query's own.")
    ] = None,
    query_offset: Annotated[int, typer.Option(help="Position of the first query.")] = 0,
    rope: Annotated[
        str,
        typer.Option(
            parser=choice("--rope", ROPES), metavar="|".join(ROPES), help="Feature pairing of RoPE."
        ),
    ] = "none",
    base: Annotated[float, typer.Option(help="Base of RoPE.")] = 10000.0,
    rope_dim: Annotated[
        int | None, typer.Option(help="Rotated features per head.", show_default="all")
    ] = None,
    activation: Annotated[
        str,
        typer.Option(
            parser=choice("--activation", ACTIVATIONS),
            metavar="|".join(ACTIVATIONS),
            help="Activation of the feed-forward network.",
        ),
    ] = "gelu",
    norm: Annotated[
        str, typer.Option(parser=choice("--norm", NORMS), metavar="|".join(NORMS), help="Kind of norm.")
    ] = "layer",
    norm_eps: Annotated[float, typer.Option(help="Eps of the norms, added to the variance.")] = 1e-5,
    norm_offset: Annotated[bool, typer.Option("--norm-offset", help="Norms multiply by 1 + weight.")] = False,
    norm_first: Annotated[bool, typer.Option("--norm-first", help="Pre-norm instead of post-norm.")] = False,
    source_layout: Annotated[
        str,
        typer.Option(
            "--from",
            parser=layout("--from"),
            metavar="LAYOUT",
            autocompletion=layouts,
            help="Layout of the weights; `attention-bridge layouts` lists all.",
        ),
    ] = "torch_attention",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Diagnose why a port's outputs differ. The options describe the reference.

    Example: attention-bridge doctor case.npz --heads 4 --causal --rope half
    """
    from attention_bridge.doctor import Setting, file, report

    with options(**OPTIONS):
        setting = Setting(
            num_heads=heads,
            num_kv_heads=kv_heads,
            scale=scale,
            softcap=softcap,
            is_causal=causal,
            window=window,
            query_offset=query_offset,
            rope=rope,
            rope_base=base,
            rope_dim=rope_dim,
            activation=activation,
            norm=norm,
            norm_eps=norm_eps,
            norm_offset=norm_offset,
            norm_first=norm_first,
        )
    with step("examine") as say:
        diagnosis = file.diagnose_file(case, setting, source_layout, say)
    if diagnosis.status == "other setting":
        raise InputError(diagnosis.verdict)
    if as_json:
        typer.echo(report.as_json(diagnosis))
    else:
        report.show(diagnosis, Console(highlight=False))
    if diagnosis.status != "healthy":
        raise typer.Exit(1)
