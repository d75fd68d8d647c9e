"""The command `attention-bridge` and its subcommands."""

from __future__ import annotations

import errno
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import attention_bridge
from attention_bridge.cli.catalogue import list_mechanisms, show
from attention_bridge.cli.check import check
from attention_bridge.cli.checkpoints import convert, inspect, layouts
from attention_bridge.cli.choices import OptionError
from attention_bridge.cli.classify import classify
from attention_bridge.cli.demo import demo
from attention_bridge.cli.doctor import doctor
from attention_bridge.cli.draft_layout import draft_layout
from attention_bridge.cli.embed import embed
from attention_bridge.cli.fill_mask import fill_mask
from attention_bridge.cli.generate import generate
from attention_bridge.cli.info import info
from attention_bridge.cli.parity import parity
from attention_bridge.cli.plot import plot
from attention_bridge.cli.progress import show_warning
from attention_bridge.errors import REFUSALS, cut, printable


class Commands(TyperGroup):
    """Command group that reports bad input in one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error in its input exits with code 2."""
        try:
            return super().invoke(ctx)
        except (*REFUSALS, OptionError) as error:
            lines = [
                cut(printable(line)) for line in str(error).split("\n")
            ]  # an error may come with a table
            typer.echo("attention-bridge: " + "\n".join(lines), err=True)
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of the output closed it
                raise
            typer.echo(f"attention-bridge: {cut(printable(str(error)))}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"attention-bridge {attention_bridge.__version__}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The same attention in PyTorch and JAX: convert weights, prove that the outputs are equal."""


app.command("list")(list_mechanisms)
for command in (show, parity, demo, inspect, convert, check, layouts, doctor, plot, info):
    app.command()(command)
for text_command in (generate, embed, classify):
    app.command()(text_command)
app.command("fill-mask")(fill_mask)
app.command("draft-layout")(draft_layout)


def main() -> None:
    """Run the command; characters that the terminal cannot encode are replaced."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    warnings.showwarning = show_warning
    app()


if __name__ == "__main__":
    main()
