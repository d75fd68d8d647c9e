"""The command `attention-bridge`: it parses, calls and prints, and no more."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text
from typer.core import TyperGroup

from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.plot import plot
from attention_bridge.errors import REFUSALS, InputError, cut, printable, require


class Commands(TyperGroup):
    """Commands that say in one sentence what they were given that cannot be."""

    def invoke(self, ctx: Any) -> Any:
        """Run one; a refusal is exit code 2."""
        try:
            return super().invoke(ctx)
        except REFUSALS as error:
            lines = [cut(printable(line)) for line in str(error).split("\n")]  # a fault may come with a table
            typer.echo("attention-bridge: " + "\n".join(lines), err=True)
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of the output closed it
                raise
            typer.echo(f"attention-bridge: {cut(printable(str(error)))}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def describe() -> None:
    """The same attention in PyTorch and in JAX: weights carried across, equality proven."""


@app.command()
def demo(
    text: Annotated[list[str] | None, typer.Option(help="A sentence; may be given many times.")] = None,
    file: Annotated[Path | None, typer.Option(parser=a_path, help="UTF-8 text, one sentence a line.")] = None,
    query: Annotated[str | None, typer.Option(help="Whose nearest neighbours to show.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            parser=a_path, help="Directory of a BERT-style encoder.", show_default="all-MiniLM-L6-v2"
        ),
    ] = None,
    figure: Annotated[
        Path, typer.Option(parser=a_path, help="Where the picture goes: .png, .pdf or .svg.")
    ] = Path("attention-demo.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """A pretrained sentence encoder in both frameworks: the same weights, attention and embeddings."""
    from attention_bridge.demo import report, run

    result = run(text or (), file=file, query=query, checkpoint=checkpoint, figure=figure, step=_step)
    _warn_of_miscompilation(result.platform)
    if as_json:
        typer.echo(report.as_json(result))
    else:
        report.show(result, Console(highlight=False))
    if not result.ok:
        if as_json:
            Console(stderr=True).print(report.verdict(result), soft_wrap=True)
        raise typer.Exit(1)


@app.command("list")
def list_mechanisms(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown.")] = False,
) -> None:
    """The catalogue: every mechanism, where it comes from and where it stands."""
    from attention_bridge.catalogue import CATALOGUE
    from attention_bridge.pages import tables

    if as_json:
        typer.echo(json.dumps(tables.mechanism_rows(CATALOGUE), indent=2))
    elif as_markdown:
        typer.echo(tables.mechanism_markdown(CATALOGUE))
    else:
        Console(highlight=False).print(tables.mechanism_table(CATALOGUE))


@app.command()
def parity(
    names: Annotated[list[str] | None, typer.Argument(help="Mechanisms, as `list` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every mechanism.")] = False,
    dtype: Annotated[
        list[str] | None, typer.Option(help="May be given many times; all three if not.")
    ] = None,
    platform: Annotated[str, typer.Option(help="Where JAX runs: cpu, gpu or tpu.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Prove that both mirrors compute the same: outputs, weights and gradients, under every kind of mask."""
    from attention_bridge.catalogue import select
    from attention_bridge.pages import tables

    if bool(names) == everything:
        raise InputError("expected the names of mechanisms, or --all for every one, and not both")
    mechanisms = select(names or [])
    require(("torch", "jax", "flax"), extra="torch,jax")
    from attention_bridge.parity import proof

    dtypes = proof.check_dtypes(dtype or proof.DTYPES)
    proofs = [(m, dtype) for m in mechanisms for dtype in dtypes if dtype in m.dtypes]
    _warn_of_miscompilation(platform)
    verdicts = []
    for mechanism, each_dtype in track(
        proofs, description="prove", console=Console(stderr=True), transient=True
    ):
        verdicts.append(proof.prove(mechanism, each_dtype, platform))
        proof.forget_compiled()
    if as_json:
        typer.echo(json.dumps(tables.verdict_rows(verdicts), indent=2))
    elif as_markdown:
        from attention_bridge.pages.parity import verdict_page

        typer.echo(verdict_page(verdicts))
    else:
        Console(highlight=False).print(tables.verdict_table(verdicts))
    for verdict in verdicts:
        for failure in verdict.failures:
            typer.echo(f"{verdict.name} {verdict.dtype}, {failure}", err=True)
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def doctor(
    case: Annotated[
        Path, typer.Argument(parser=a_path, help="x, reference, candidate and weights: .npz or .safetensors.")
    ],
    heads: Annotated[int, typer.Option(help="Heads of queries.")],
    kv_heads: Annotated[
        int | None, typer.Option(help="Heads of keys and values.", show_default="as many")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Factor on the scores.", show_default="1 / sqrt(head_dim)")
    ] = None,
    softcap: Annotated[float | None, typer.Option(help="Bound on the scores.")] = None,
    causal: Annotated[bool, typer.Option("--causal", help="Later positions are hidden.")] = False,
    window: Annotated[int | None, typer.Option(help="Keys that a query sees, its own included.")] = None,
    query_offset: Annotated[int, typer.Option(help="Position of the first query.")] = 0,
    rope: Annotated[str, typer.Option(help="none, half or interleaved.")] = "none",
    base: Annotated[float, typer.Option(help="Of the rotary embedding.")] = 10000.0,
    rope_dim: Annotated[int | None, typer.Option(help="Features that turn.", show_default="all")] = None,
    activation: Annotated[str, typer.Option(help="relu, gelu or gelu_tanh.")] = "gelu",
    norm: Annotated[str, typer.Option(help="layer or rms.")] = "layer",
    norm_eps: Annotated[float, typer.Option(help="Added to the variance.")] = 1e-5,
    norm_offset: Annotated[bool, typer.Option("--norm-offset", help="Norms multiply by 1 + weight.")] = False,
    norm_first: Annotated[bool, typer.Option("--norm-first", help="Norms stand before, not after.")] = False,
    layout: Annotated[str, typer.Option("--from", help="Layout of the weights.")] = "torch_attention",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Why a port of attention gives other numbers: the options say what the reference computes."""
    from attention_bridge.doctor import Setting, file, report

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
    with _step("examine") as say:
        diagnosis = file.diagnose_file(case, setting, layout, say)
    if diagnosis.status == "other setting":
        raise InputError(diagnosis.verdict)
    if as_json:
        typer.echo(report.as_json(diagnosis))
    else:
        report.show(diagnosis, Console(highlight=False))
    if diagnosis.status != "healthy":
        raise typer.Exit(1)


@app.command()
def layouts(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, with every rule.")] = False,
) -> None:
    """The layouts that weights can be converted between."""
    from attention_bridge.cli import weight_tables

    if as_json:
        typer.echo(json.dumps(weight_tables.layout_rows(), indent=2))
    else:
        Console(highlight=False).print(weight_tables.layout_table())


@app.command()
def inspect(
    source: Annotated[
        Path, typer.Argument(parser=a_path, help="A checkpoint: a file, an index or a directory.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a checkpoint holds: format, layout with the evidence, the model's layers, tensors."""
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


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(parser=a_path, help="A checkpoint: a file, an index or a directory.")
    ],
    target: Annotated[
        Path, typer.Argument(parser=a_path, help="The file to write; its name says the format.")
    ],
    source_layout: Annotated[
        str | None, typer.Option("--from", help="Layout of the source.", show_default="as config.json says")
    ] = None,
    target_layout: Annotated[str, typer.Option("--to", help="Layout of the target.")] = "torch_attention",
    config: Annotated[
        Path | None,
        typer.Option(parser=a_path, help="config.json of the model.", show_default="that beside the source"),
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="Size that no shape gives, such as d=64; may be given many times."),
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(
            help="Path in the Keras model, PATH=layers/multi_head_attention; may be given many times."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a target that exists.")] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Convert tensors that no module of the mirrors has.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Run both ends on random input.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what is done to each tensor.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a checkpoint from one layout and format to another, bit for bit."""
    from attention_bridge import checkpoints, weights
    from attention_bridge.cli import weight_tables
    from attention_bridge.pretrained import conversion

    if dry_run and verify:
        raise InputError("expected --dry-run or --verify, and not both: there would be nothing to run")
    given = None if config is None else conversion.read_configuration(config)
    axes = conversion.read_axes(axis or [])
    layout = source_layout or conversion.layout_by_configuration(source, given)
    known = given
    if verify:
        from attention_bridge.pretrained import verification

        known = given if given is not None else conversion.configuration_beside(checkpoints.find(source).path)
        verification.check(source, layout, target_layout, config=known, axes=axes)
    done = conversion.convert_checkpoint(
        source,
        target,
        layout,
        target_layout,
        axes=axes,
        config=given,
        dry_run=dry_run,
        force=force,
        allow_unknown=allow_unknown,
        places=conversion.read_places(place or []),
        watch=_watched,
    )
    verified = None
    if verify:
        verified = verification.verify(source, done.target, layout, target_layout, config=known, axes=axes)
    for name in done.unknown:
        _warn(f"no module of the mirrors has {name}; it was taken as it is")
    for name in done.not_finite:
        _warn(f"{name} holds numbers that are not finite")
    if as_json:
        typer.echo(json.dumps(weight_tables.conversion_json(done, dry_run, verified), indent=2))
    else:
        lines = weight_tables.conversion_lines(done, dry_run, verified)
        lines += weights.explain(done.report).split("\n") if explain else []
        typer.echo("\n".join(map(printable, lines)))
    if verified is not None and not verified.ok:
        raise typer.Exit(1)


app.command()(plot)


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Versions, devices, matmul precision, and known miscompilations, tried in child processes."""
    from attention_bridge.cli.info import collect, lines

    found = collect()
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


def _warn(text: str) -> None:
    """Say something on stderr, on one line."""
    typer.echo(f"attention-bridge: {cut(printable(f'warning: {text}'))}", err=True)


def _warn_of_miscompilation(platform: str) -> None:
    """Say on stderr, once per process, that JAX on this CPU fails a canary."""
    from attention_bridge.accelerators import canaries

    if platform == "cpu" and (said := canaries.warn_once()):
        typer.echo(f"attention-bridge: {said}", err=True)


def _watched(items: Any, count: int) -> Any:
    """The tensors as they are written, with a bar on stderr."""
    return track(items, description="write", total=count, console=Console(stderr=True), transient=True)


@contextmanager
def _step(name: str) -> Iterator[Callable[[str], object]]:
    """Show on stderr that a step is under way and what it says of its progress, and then how long it took."""
    console = Console(stderr=True, highlight=False)
    started = time.perf_counter()
    with console.status(Text(name)) as status:
        yield lambda line: status.update(Text(f"{name}: {line}"))
    elapsed = f"{time.perf_counter() - started:5.1f} s"
    console.print(Text.assemble((f"{elapsed}  ", "dim"), name))


def main() -> None:
    """Run the command; a letter that the terminal cannot show is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()


if __name__ == "__main__":
    main()
