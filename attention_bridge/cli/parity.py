"""The command `parity`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from attention_bridge.cli.choices import DTYPES, PLATFORMS, choice, mechanisms
from attention_bridge.cli.paths import path as a_path
from attention_bridge.cli.progress import warn_of_miscompilation
from attention_bridge.errors import InputError, require

if TYPE_CHECKING:
    from attention_bridge.catalogue import Mechanism


def parity(
    names: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=mechanisms, help="Names of mechanisms, as `list` prints them."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Prove every mechanism.")] = False,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            parser=choice("--dtype", DTYPES),
            metavar="|".join(DTYPES),
            help="Dtype; repeatable; all three by default.",
        ),
    ] = None,
    platform: Annotated[
        str,
        typer.Option(
            parser=choice("--platform", PLATFORMS),
            metavar="|".join(PLATFORMS),
            help="Platform that JAX runs on.",
        ),
    ] = "cpu",
    certify: Annotated[
        Path | None,
        typer.Option(parser=a_path, metavar="CERT.json", help="File to write a certificate to; see `check`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Prove that both mirrors give equal outputs, attention weights and gradients, under every kind of mask.

    Example: attention-bridge parity GroupedQueryAttention --dtype float32
    """
    from attention_bridge.catalogue import select
    from attention_bridge.pages import tables

    if as_json and as_markdown:
        raise InputError("expected --json or --markdown, not both")
    if bool(names) == everything:
        raise InputError("expected either names of mechanisms or --all")
    mechanisms = select(names or [])
    if certify is not None:
        from attention_bridge.parity.certificates.certificate import check_path

        check_path(certify)
    require(("torch", "jax", "flax"), extra="torch,jax")
    from attention_bridge.parity import proof

    dtypes = proof.check_dtypes(dtype or proof.DTYPES)
    proofs = [(m, dtype) for m in mechanisms for dtype in dtypes if dtype in m.dtypes]
    warn_of_miscompilation(platform)
    prover = None
    prove: Callable[[Mechanism, str], proof.Verdict] = partial(proof.prove, platform=platform)
    if certify is not None:
        from attention_bridge.parity.certificates.mechanisms import Prover

        prover = Prover(platform)
        prove = prover.prove
    verdicts = []
    for mechanism, each_dtype in track(
        proofs, description="prove", console=Console(stderr=True), transient=True
    ):
        verdicts.append(prove(mechanism, each_dtype))
        proof.forget_compiled()
    if as_json:
        typer.echo(json.dumps(tables.verdict_rows(verdicts), indent=2))
    elif as_markdown:
        from attention_bridge.pages.parity import verdict_page

        typer.echo(verdict_page(verdicts))
    else:
        Console(highlight=False).print(tables.verdict_table(verdicts))
    if certify is not None and prover is not None:
        prover.certificate().save(certify)
        typer.echo(f"wrote {certify}", err=True)
    for verdict in verdicts:
        for failure in verdict.failures:
            typer.echo(f"{verdict.name} {verdict.dtype}, {failure}", err=True)
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)
