"""A poster of every mask and every mechanism of the catalogue, on one small input.

python examples/attention_patterns.py                        # all, in PyTorch
python examples/attention_patterns.py --framework both       # also in JAX, and compared
python examples/attention_patterns.py --family vision --family sparse
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from attention_bridge import plots
from attention_bridge.catalogue import CATALOGUE
from attention_bridge.errors import InputError
from attention_bridge.parity.measure import error, tolerances
from attention_bridge.plots.gallery.drawing import (
    FAMILIES,
    MASKS,
    TITLES,
    compute,
    mask_panels,
    mechanisms,
    panels,
)
from attention_bridge.plots.gallery.masks import masks
from attention_bridge.plots.gallery.sentence import PHRASES, WORDS, latents
from attention_bridge.plots.posters import Panel, poster

QUICK = (MASKS, "sparse")
FRAMEWORKS = {"torch": ("torch",), "jax": ("jax",), "both": ("torch", "jax")}


def main(
    framework: Annotated[Literal["torch", "jax", "both"], typer.Option(help="Framework to use.")] = "torch",
    family: Annotated[
        list[str] | None, typer.Option(help="Family to draw; repeatable. All by default.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Draw only two families.")] = False,
    output: Annotated[Path, typer.Option(help="Directory for the pictures.")] = Path(
        "attention-examples/attention_patterns"
    ),
) -> None:
    """Draw every mask and every mechanism of the catalogue on one small input."""
    console = Console(highlight=False)
    try:
        chosen = tuple(family or (QUICK if quick else FAMILIES))
        asked = mechanisms(chosen)
        output.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as refusal:
        typer.echo(f"attention_patterns: {refusal}", err=True)
        raise typer.Exit(2) from refusal

    which = FRAMEWORKS[framework]
    groups: dict[str, list[Panel]] = {name: [] for name in FAMILIES if name in chosen}
    apart: dict[str, float] = {}  # difference of the frameworks, by mechanism or mask
    if MASKS in chosen:
        ours, theirs = masks(which[0]), masks(which[-1])
        groups[MASKS] += mask_panels(ours)
        apart.update((name, float((ours[name] != theirs[name]).any())) for name in ours)
    for mechanism in track(asked, "compute", console=Console(stderr=True), transient=True):
        drawn = compute(mechanism, which[0])
        compared = drawn if len(which) == 1 else compute(mechanism, which[1])
        groups[mechanism.family] += panels(mechanism, drawn)
        apart[mechanism.name] = max(
            error(other.matrix, one.matrix) for one, other in zip(drawn, compared, strict=True)
        )
    where = max(apart, key=apart.__getitem__)
    if apart[where] > 2 * tolerances("float64", 1)["output"]:
        console.print(f"NOT EQUAL: PyTorch and JAX are {apart[where]:.1e} apart in {where}.", style="red")
        raise typer.Exit(1)

    figure = draw({TITLES[name]: members for name, members in groups.items()}, framework)
    for ending in ("png", "svg"):
        plots.save(figure, output / f"attention_patterns.{ending}")
    count = sum(map(len, groups.values()))
    console.print(f"{count} panels: {len(asked)} mechanisms of {len(CATALOGUE)}, in {len(groups)} groups.")
    if framework == "both":
        console.print(
            f"Largest difference between PyTorch and JAX: {apart[where]:.1e} of a panel's largest value, "
            f"in {where}.",
            soft_wrap=True,
        )
    console.print(f"Poster: {output / 'attention_patterns.png'} and .svg", soft_wrap=True)


def draw(groups: dict[str, list[Panel]], framework: str) -> Figure:
    """Draw the poster of these groups of panels."""
    computed = {"torch": "PyTorch", "jax": "JAX", "both": "PyTorch and JAX, with the same results"}
    text = "\n".join(
        (
            f"The input: “{PHRASES[0]}; {PHRASES[1]};",
            f"{PHRASES[2]}”: {len(WORDS)} words, some of which are repeated.",
            "In each panel a row is a query and a column is a key, with the first word at the top and on the left;",
            "of several heads the first one is shown. Each panel has its own scale; a grey cell is exactly 0.",
            "The weights are random, such that words attend to similar words.",
            f"Computed in {computed[framework]}.",
        )
    )
    lead = Panel("similarity of the words", latents() @ latents().T, kind="scores")
    return poster(groups, title="Attention patterns", text=text, lead=lead, tokens=WORDS)


if __name__ == "__main__":
    typer.run(main)
