"""A character-level GPT learns to write English, with the same code in PyTorch and in JAX.

python examples/generate_text.py --framework both
python examples/generate_text.py --text my_novel.txt --prompt "It was "

The text is the language reference that ships with Python (`pydoc_data.topics`), or your own file. During training the
script prints samples of the model; both frameworks sample with the same random numbers. The last tenth of the text is
held out for the test: the model's loss must be 10% below the loss of a trigram model counted in the same text. At the
end the script draws the losses (`curves.png`), and the attention weights of the heads of one layer (`heads.png`).
"""

import zlib
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated, Any

import numpy as np
import typer

from attention_bridge import plots
from attention_bridge.errors import InputError
from attention_bridge.training import NAMES, AdamW, Batch, Lesson, Options, example

BAR = 0.1  # required improvement over the trigram model, as a fraction of its loss
BATCH = 16
CONTEXT = 128  # context length in characters
SHORTEST = 20 * CONTEXT  # least length of a text
MOST_TESTED = 256  # most sequences of the held-out text
TEMPERATURE = 0.7
SHOWN = 24  # characters of the held-out text for the default prompt and the picture
SIZES = {"embed_dim": 96, "num_heads": 4, "num_layers": 3, "ffn_dim": 384, "max_len": CONTEXT}


# ---- The data -----------------------------------------------------------------------------------------------


def read(path: Path | None) -> str:
    """Read a text file, or Python's language reference, and remove repeated paragraphs.

    A fifth of the reference is repeated; without this step the held-out text would contain training text.

    Args:
        path: a text file in UTF-8; None for the language reference.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or is too short.
    """
    try:
        text = "\n\n".join(topics.values()) if path is None else path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"text must be a file that can be read, but {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"text must be in UTF-8, but {path} is not, at byte {error.start}") from error
    paragraphs: dict[str, str] = {}
    for each in text.split("\n\n"):
        paragraphs.setdefault(" ".join(each.split()), each)
    text = "\n\n".join(each for words, each in paragraphs.items() if words)
    if len(text) < SHORTEST or len(set(text)) < 2:
        raise InputError(
            f"text must have at least {SHORTEST} characters, not all the same, in paragraphs that differ, "
            f"but {path} has {len(text)}"
        )
    return text


def numbered(prompt: str, characters: list[str]) -> np.ndarray:
    """Tokens of a prompt.

    Raises:
        InputError: the prompt has an unknown character, is empty, or fills the whole context.
    """
    unknown = next((each for each in prompt if each not in characters), None)
    if unknown is not None:
        raise InputError(f"prompt must be of characters of the text, but {unknown!r} is not in it")
    if not 0 < len(prompt) < CONTEXT:
        raise InputError(f"prompt must have from 1 to {CONTEXT - 1} characters, got {len(prompt)}")
    return np.array([characters.index(each) for each in prompt], np.int32)


def loss_of_three(learnt: np.ndarray, held: np.ndarray, characters: int) -> float:
    """The mean loss in nats per character of a trigram model.

    Rare contexts are interpolated with shorter ones (Witten and Bell 1991): a context that occurs s times, followed by
    k different characters, has the weight s / (s + k).

    Args:
        learnt: training text, from which n-grams are counted.
        held: held-out text, on which the loss is computed.
        characters: size of the vocabulary.
    """

    def grams(text: np.ndarray, length: int) -> np.ndarray:
        ends = (text[2 - i : len(text) - i].astype(np.int64) * characters**i for i in range(length))
        return sum(ends, np.zeros(len(text) - 2, np.int64))

    def count(among: np.ndarray, asked: np.ndarray) -> np.ndarray:
        there, times = np.unique(among, return_counts=True)
        place = np.searchsorted(there, asked).clip(max=len(there) - 1)
        return np.where(there[place] == asked, times[place], 0)

    chance = np.full(len(held) - 2, 1 / characters)
    for length in (1, 2, 3):
        among, asked = grams(learnt, length), grams(held, length)
        seen = count(among // characters, asked // characters)
        behind = count(np.unique(among) // characters, asked // characters)
        chance = (count(among, asked) + np.maximum(behind, 1) * chance) / (seen + np.maximum(behind, 1))
    return float(-np.log(chance).mean())


# ---- The model: the same lines for both frameworks ----------------------------------------------------------


def scores(model: Any, characters: Any) -> Any:
    """The logits of the next character."""
    return model(characters).output


def looks(model: Any, characters: Any) -> Any:
    """The attention weights of each layer, `(batch, heads, characters, characters)`."""
    return model(characters, need_weights=True).weights


# ---- The training -------------------------------------------------------------------------------------------


@example(steps=1200)
def main(
    options: Options,
    *,
    text: Annotated[Path | None, typer.Option(help="Text file in UTF-8 to learn from.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt for the samples during training.")] = None,
) -> None:
    """Learn to write with a character-level GPT."""
    written = read(text)
    characters = sorted(set(written))
    number = {each: i for i, each in enumerate(characters)}
    numbers = np.array([number[each] for each in written], np.int32)
    learnt, held = np.split(numbers, [len(numbers) * 9 // 10])
    shown = written[len(learnt) :].split("\n\n", 1)[-1].lstrip()[:SHOWN]  # the start of a paragraph
    begin = shown if prompt is None else prompt
    start = numbered(begin, characters)
    stretches = held[: len(held) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)[:MOST_TESTED]
    three = loss_of_three(learnt, stretches.ravel(), len(characters))
    typer.echo(
        f"{len(learnt)} characters to learn from, {len(characters)} different, and {stretches.size} held out; "
        f"a trigram model has a loss of {three:.3f} nats per character"
    )
    sizes = {"vocab_size": len(characters), **SIZES}

    def build(models: Any, **factory: Any) -> Any:
        return models.Decoder(models.DecoderConfig(**sizes), **factory)

    def batch(step: int) -> Batch:
        begins = np.random.default_rng([options.seed, step]).integers(0, len(learnt) - CONTEXT, BATCH)
        drawn = learnt[begins[:, None] + np.arange(CONTEXT + 1)]
        return Batch((drawn[:, :-1],), drawn[:, 1:])

    lesson = Lesson(
        "Characters",
        build,
        scores,
        batch,
        options.steps,
        AdamW(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1, warmup=50, max_norm=1.0),
        options.seed,
        {"batch": BATCH, "text": zlib.crc32(written.encode()), **sizes},
    )
    more = CONTEXT - len(start)

    def loss(learner: Any) -> float:
        given = learner.apply(scores, stretches[:, :-1]).astype(np.float64)
        right = np.take_along_axis(given, stretches[:, 1:, None], -1)[..., 0]
        return float((np.logaddexp.reduce(given, -1) - right).mean())

    def report(learner: Any) -> str:
        written = learner.models.generate(
            learner.model, learner.array(start[None]), more, temperature=TEMPERATURE, seed=options.seed
        )
        told = "".join(characters[i] for i in np.asarray(written)[0])
        return f"held-out loss {loss(learner):.3f} nats per character; sample:\n{begin}|{told}\n"

    done = options.run(lesson, report)
    draw(options, next(iter(done.learners.values())), numbered(shown, characters), list(shown))
    found = {name: loss(learner) for name, learner in done.learners.items()}
    for name, each in found.items():
        typer.echo(f"{NAMES[name]}: held-out loss {each:.3f} nats per character, trigram model {three:.3f}")
    options.demand("below the trigram model by", {name: 1 - x / three for name, x in found.items()}, BAR)


# ---- The picture --------------------------------------------------------------------------------------------


def draw(options: Options, learner: Any, line: np.ndarray, characters: list[str]) -> None:
    """Draw the attention weights of each head of the second layer on a held-out line."""
    layer = 1
    title = f"Attention weights of layer {layer}"
    weights = learner.apply(looks, line[None])[layer]
    plots.save(plots.head_grid(weights, characters, title=title), options.output / "heads.png")


if __name__ == "__main__":
    main()
