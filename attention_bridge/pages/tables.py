"""The catalogue and its proofs as terminal tables and JSON rows, and the catalogue as Markdown."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from attention_bridge.catalogue import Mechanism
from attention_bridge.pages import proofs
from attention_bridge.pretrained.families.mechanisms import model_types

if TYPE_CHECKING:  # proofs need both frameworks, the catalogue needs neither
    from attention_bridge.parity.proof import Verdict


def mechanism_rows(mechanisms: Sequence[Mechanism]) -> list[dict[str, Any]]:
    """One JSON object per mechanism."""
    return [
        {
            "name": mechanism.name,
            "family": mechanism.family,
            "paper": mechanism.paper.authors,
            "year": mechanism.paper.year,
            "address": mechanism.paper.address,
            "equation": mechanism.equation,
            "dtypes": list(mechanism.dtypes),
            "decoding": mechanism.decoding,
            "no_decoding": mechanism.no_decoding,
            "peers": list(mechanism.peers),
            "no_peer": mechanism.no_peer,
            "models": model_types(class_name(mechanism)),
            "proofs": proofs.of(mechanism.name),
            "files": [f"torch_attention/{mechanism.file}", f"jax_attention/{mechanism.file}"],
        }
        for mechanism in mechanisms
    ]


def mechanism_table(mechanisms: Sequence[Mechanism]) -> Table:
    """The catalogue as a table for the terminal."""
    table = _plain_table("mechanism", "family", "paper")
    for m in mechanisms:
        table.add_row(m.name, m.family, f"{m.paper.authors} {m.paper.year}")
    return table


def mechanism_lines(mechanism: Mechanism) -> list[str]:
    """One mechanism as lines for the terminal; signatures of a framework that is not installed are omitted."""
    m, paper = mechanism, mechanism.paper
    decoding = f"with a {m.decoding}" if m.decoding else f"none: {m.no_decoding}" if m.no_decoding else "none"
    rows = [
        ("family", m.family),
        ("equation", m.equation),
        ("paper", f"{paper.authors} {paper.year}, {paper.address}"),
        ("decoding", decoding),
        ("peers", ", ".join(m.peers) or f"none: {m.no_peer}"),
        ("models", ", ".join(model_types(class_name(m))) or "no model type that load_pretrained reads"),
        ("proof", f"attention-bridge parity '{m.name}'"),
    ]
    lines = [m.name, *(f"  {title:<10}{text}" for title, text in rows), *proofs.lines(m.name)]
    for package in ("torch_attention", "jax_attention"):
        lines += ["", f"{package}/{m.file}", *_signatures(package, class_name(m))]
    return lines


def class_name(mechanism: Mechanism) -> str:
    """The name of a mechanism's class; a positional encoding is proven in a layer, but has a class of its own."""
    return mechanism.name.partition("-")[0]


def _signatures(package: str, name: str) -> Iterator[str]:
    """The signatures of the constructor and the call of a class."""
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        yield f"  {error.name} is not installed"
        return
    found = getattr(module, name, None) or getattr(import_module(f"{package}.models"), name)
    call = found.forward if package == "torch_attention" else found.__call__
    for title, function in ((name, found.__init__), ("call", call)):
        parameters = list(inspect.signature(function).parameters.values())[1:]
        names = [str(each).split(":")[0] + _default(each) for each in parameters]
        by_keyword = next((n for n, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY), None)
        if by_keyword is not None:
            names.insert(by_keyword, "*")
        yield f"  {title}({', '.join(names)})"


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    return "" if value is parameter.empty else f"={value.__name__ if inspect.isclass(value) else repr(value)}"


def mechanism_markdown(mechanisms: Sequence[Mechanism]) -> str:
    """The catalogue as a Markdown page with one table per family."""
    families = dict.fromkeys(mechanism.family for mechanism in mechanisms)
    tables = [
        f"## {family}\n\n| mechanism | equation | paper | decodes with | PyTorch | JAX |\n|---|---|---|---|---|---|\n"
        + "\n".join(_catalogue_row(m) for m in mechanisms if m.family == family)
        for family in families
    ]
    return CATALOGUE_PAGE.format(number=len(mechanisms), tables="\n\n".join(tables))


CATALOGUE_PAGE = """# The catalogue

Printed by `attention-bridge list --markdown`: {number} entries. [parity.md](parity.md) lists the errors of the
mirrors against a float64 oracle, [peers.md](peers.md) against other implementations. Causal mechanisms decode
incrementally with the KV cache or recurrent state named in "decodes with".

{tables}"""


def _catalogue_row(m: Mechanism) -> str:
    equation = m.equation.replace("|", r"\vert ")
    files = [f"[{m.file}](../{package}/{m.file})" for package in ("torch_attention", "jax_attention")]
    paper = f"[{m.paper.authors} {m.paper.year}]({m.paper.address})"
    return f"| {m.name} | $`{equation}`$ | {paper} | {m.decoding} | {files[0]} | {files[1]} |"


def verdict_rows(verdicts: Sequence["Verdict"]) -> list[dict[str, Any]]:
    """One JSON object per proof."""
    return [asdict(verdict) for verdict in verdicts]


HEADINGS = ("mechanism", "dtype", "torch", "jax", "diff", "bound", "grad", "bound", "same", "")


def verdict_table(verdicts: Sequence["Verdict"]) -> Table:
    """The proofs as a table for the terminal."""
    table = _plain_table(*HEADINGS)
    for verdict in verdicts:
        *cells, ok = verdict_cells(verdict)
        table.add_row(*cells, Text(ok, style="green" if verdict.ok else "bold red"))
    return table


def verdict_cells(verdict: "Verdict") -> tuple[str, ...]:
    """Cells of one proof, in the order of `HEADINGS`."""
    gradient = max(verdict.torch_gradient_err, verdict.jax_gradient_err)
    figures = (
        verdict.torch_err,
        verdict.jax_err,
        verdict.diff,
        verdict.tolerance,
        gradient,
        verdict.gradient_tolerance,
    )
    return (
        verdict.name,
        verdict.dtype,
        *(f"{figure:.0e}" for figure in figures),
        f"{100 * verdict.same_bits // verdict.elements} %",
        "ok" if verdict.ok else "DIFFERS",
    )


def _plain_table(*headings: str) -> Table:
    """Make a table without lines, for 80 columns; only the last column folds in a narrower terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != headings[-1], overflow="fold")
    return table
