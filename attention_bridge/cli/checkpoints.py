"""The commands `layouts`, `inspect` and `convert`, for checkpoints and the layouts of their tensors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from attention_bridge.cli.choices import existing, layout
from attention_bridge.cli.choices import layouts as complete_layout
from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.progress import warn, watched
from attention_bridge.errors import InputError, printable

if TYPE_CHECKING:
    from attention_bridge.pretrained.certification import Recipe
    from attention_bridge.pretrained.source import Source


def layouts(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list with every rule.")] = False,
) -> None:
    """List the layouts that weights can be converted between."""
    from attention_bridge.cli import weight_tables

    if as_json:
        typer.echo(json.dumps(weight_tables.layout_rows(), indent=2))
    else:
        Console(highlight=False).print(weight_tables.layout_table())


def inspect(
    source: Annotated[
        Path, typer.Argument(parser=a_path, help="A checkpoint: a file, an index or a directory.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a checkpoint's format, its layout and the evidence for it, the model's layers, and the tensors.

    Example: attention-bridge inspect path/to/model
    """
    from attention_bridge.cli import weight_tables
    from attention_bridge.pretrained import inspection

    found = inspection.inspect(source)
    if as_json:
        typer.echo(json.dumps(weight_tables.inspection_json(found), indent=2))
        return
    console = Console(highlight=False)
    description = weight_tables.description_lines(found)
    for line in [*weight_tables.inspection_lines(found), *(["", *description, ""] if description else [])]:
        console.print(Text(printable(line)), soft_wrap=True)
    console.print(weight_tables.tensor_table(found))


def convert(
    source: Annotated[
        Path, typer.Argument(parser=a_path, help="A checkpoint: a file, an index or a directory.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            parser=a_path, help="The file to write, whose suffix gives the format; without one, a directory."
        ),
    ],
    source_layout: Annotated[
        str | None,
        typer.Option(
            "--from",
            parser=layout("--from"),
            metavar="LAYOUT",
            autocompletion=complete_layout,
            help="Layout of the source; `attention-bridge layouts` lists all. mine.toml is a layout of your own, and "
            "so is mine.py:MINE, whose Python code runs.",
            show_default="from config.json",
        ),
    ] = None,
    target_layout: Annotated[
        str,
        typer.Option(
            "--to",
            parser=layout("--to"),
            metavar="LAYOUT",
            autocompletion=complete_layout,
            help="Layout of the target, or a file as for --from.",
        ),
    ] = "torch_attention",
    config: Annotated[
        Path | None,
        typer.Option(
            parser=existing("--config"),
            metavar="PATH",
            help="config.json of the model, or its directory.",
            show_default="beside the source",
        ),
    ] = None,
    model_type: Annotated[
        str | None, typer.Option(help="Type of the model, such as llama.", show_default="from config.json")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Field of config.json that is not read; repeatable.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="Axis size that the shapes do not determine, such as d=64; repeatable."),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(help="Path in the Keras model, PATH=layers/multi_head_attention; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and report the conversion; write nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a target that exists.")] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Also copy tensors that no module of the mirrors has.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run both models on random input and compare.")
    ] = False,
    certify: Annotated[
        Path | None,
        typer.Option(
            parser=a_path,
            metavar="CERT.json",
            help="File to write a certificate to: hashes, way back, and a comparison in both frameworks; see `check`.",
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the conversion of each tensor.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a checkpoint from one layout and format to another, bit for bit.

    Example: attention-bridge convert path/to/gpt2 gpt2.safetensors --from hf.gpt2 --to jax_attention
    """
    from attention_bridge import weights
    from attention_bridge.cli import weight_tables
    from attention_bridge.pretrained import conversion
    from attention_bridge.pretrained.config_files import CONFIGS
    from attention_bridge.pretrained.source import Source
    from attention_bridge.weights.engine import find_layout
    from attention_bridge.weights.layouts import LAYOUTS

    if dry_run and verify:
        raise InputError("expected --dry-run or --verify, not both: a dry run writes no target to verify")
    if dry_run and certify is not None:
        raise InputError("expected --dry-run or --certify, not both: a dry run writes no target to certify")
    axes, places, verified = conversion.read_axes(axis or []), conversion.read_places(place or []), None
    ignored = tuple(ignore or ())
    if str(target) in LAYOUTS:
        raise InputError(
            f"the target {target} is the name of a layout: give it with --to, and a file as target"
        )
    changes = None if model_type is None else {"model_type": model_type}
    with Source.open(source, config, changes=changes, ignore=ignored) as opened:
        given_layout = source_layout or opened.layout()
        if config is not None:
            _check_config(opened, config, *(find_layout(x).name for x in (given_layout, target_layout)))
        if verify:
            from attention_bridge.pretrained import verification

            verification.check(opened, given_layout, target_layout, axes=axes)
        if certify is not None:
            from attention_bridge.pretrained import certification

            recipe = certification.Recipe(
                opened.path, target, given_layout, target_layout, config, model_type, ignored, axes, places
            )
            certification.prepare(opened, recipe, certify)
        done = conversion.convert_checkpoint(
            opened,
            target,
            given_layout,
            target_layout,
            axes=axes,
            dry_run=dry_run,
            force=force,
            allow_unknown=allow_unknown,
            places=places,
            watch=watched,
        )
        if verify:
            verified = verification.verify(opened, done.target, given_layout, target_layout, axes=axes)
    for name in done.unknown:
        warn(f"no module of the mirrors has {name}; it was copied unchanged")
    for name in done.not_finite:
        warn(f"{name} holds values that are not finite")
    if as_json:
        typer.echo(json.dumps(weight_tables.conversion_json(done, dry_run, verified), indent=2))
    else:
        lines = weight_tables.conversion_lines(done, dry_run, verified)
        lines += weights.explain(done.report).split("\n") if explain else []
        typer.echo("\n".join(map(printable, lines)))
    is_certified = True
    if certify is not None:
        written = done.target.parent / CONFIGS[0] if CONFIGS[0] in done.beside else None
        recipe = replace(recipe, target=done.target, target_config=written)
        is_certified = _write_certificate(recipe, certify, as_json)
    if not is_certified or (verified is not None and not verified.ok):
        raise typer.Exit(1)


def _write_certificate(recipe: Recipe, path: Path, quietly: bool) -> bool:
    """Certify a conversion that was done; returns whether source and target are equal."""
    from attention_bridge.pretrained import certification

    certificate = certification.certify_conversion(recipe, path.absolute().parent)
    certificate.save(path)
    sentence = certificate.content["verdict"]["sentence"]
    typer.echo(printable(f"wrote {path}: {sentence}"), err=quietly)
    return certificate.ok


def _check_config(opened: Source, config: Path, source_layout: str, target_layout: str) -> None:
    """Raise unless the given configuration describes the source or the target."""
    found = opened.reading.layout.name if opened.reading else source_layout
    if not {source_layout, target_layout} & {found, "torch_attention", "jax_attention"}:
        raise InputError(
            f"--config {config} describes a model in the layout {found}, but the source is {source_layout} and the "
            f"target {target_layout}"
        )
