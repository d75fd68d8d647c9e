"""Translate dates from 31 locales into ISO dates, character by character, with the same code in PyTorch and in JAX.

python examples/translate_dates.py --framework both --say "le 3 octobre 1987"

Two models learn the task: a Transformer, and a recurrent encoder-decoder, the first kind of model with attention. A
tenth of all days from 1900 to 2099 is held out for the test; no training text has one of them in any locale. At the end
the script draws for each model the losses (`curves.png`) and the attention weights over the source
(`alignment-*.png`).
"""

import importlib
from datetime import date
from typing import Annotated, Any, Literal

import dates
import numpy as np
import typer
from dates import LOCALES, PAD, SIGNS, START

from attention_bridge import plots
from attention_bridge.training import NAMES, AdamW, Batch, Lesson, Options, example

BAR = 0.98
BATCH = 64
TESTED = 25  # test days per locale
SHOWN = ("en", "el", "hy", "ru")  # locales in the picture
VOCABULARIES = {"src_vocab_size": len(dates.characters()) + 1, "tgt_vocab_size": len(SIGNS) + 3}
TRANSFORMER = {"embed_dim": 64, "num_heads": 4, "num_layers": 2, "ffn_dim": 128, "max_len": dates.LENGTH}
RECURRENT = {"embed_dim": 32, "hidden_dim": 128}


# ---- The models: the same lines for both frameworks ---------------------------------------------------------


def transformer(models: Any, **factory: Any) -> Any:
    """The Transformer of `torch_attention.models` or of `jax_attention.models`."""
    return models.SimpleSeq2Seq(**VOCABULARIES, **TRANSFORMER, **factory)


def recurrent(models: Any, **factory: Any) -> Any:
    """A bidirectional GRU encoder and a GRU decoder with Bahdanau's attention."""
    mirror = importlib.import_module(models.__name__.partition(".")[0])  # torch_attention or jax_attention
    size = RECURRENT["hidden_dim"]
    attention = mirror.BasicAttention(query_dim=size, key_dim=size, hidden_dim=size // 2, **factory)
    return models.RecurrentSeq2Seq(**VOCABULARIES, **RECURRENT, attention=attention, **factory)


def scores(model: Any, source: Any, written: Any) -> Any:
    """The logits of the next character at each position of the target."""
    return model.run(source, written, there(source), need_weights=False).output


def looks(model: Any, source: Any, written: Any) -> Any:
    """The attention weights of the first cross-attention, `(texts, heads, written, source)`."""
    return model.run(source, written, there(source)).cross_weights[0]


def there(source: Any) -> Any:
    """The padding mask of the source, `(texts, 1, 1, source)`: True for characters, False for padding."""
    return (source != PAD)[:, None, None]


MODELS = {
    "transformer": ("the Transformer", transformer, TRANSFORMER),
    "recurrent": ("the RNN", recurrent, RECURRENT),
}


# ---- The training -------------------------------------------------------------------------------------------


@example(steps=1200)
def main(
    options: Options,
    model: Annotated[
        Literal["transformer", "recurrent", "both"], typer.Option(help="Model to train.")
    ] = "both",
    say: Annotated[str | None, typer.Option(help="Date to translate at the end.")] = None,
) -> None:
    """Learn to translate dates from many languages into ISO dates, with a Transformer and with an RNN."""
    said = None if say is None else dates.tokens(dates.plain(say))
    learnt, held_out = dates.days(options.seed)
    tests = texts_of(held_out, options.seed)

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([options.seed, step])
        drawn = [learnt[i] for i in rng.integers(0, len(learnt), BATCH)]
        source = np.stack(
            [dates.tokens(dates.write(day, LOCALES[rng.integers(len(LOCALES))], rng)) for day in drawn]
        )
        target = np.stack([dates.iso(day) for day in drawn])
        return Batch((source, behind(target)), target)

    exact = {}
    for name in MODELS if model == "both" else (model,):
        title, build, sizes = MODELS[name]
        lesson = Lesson(
            f"Dates, {title}",
            build,
            scores,
            batch,
            options.steps,
            AdamW(lr=3e-3, betas=(0.9, 0.98), warmup=100, max_norm=1.0),
            options.seed,
            {"batch": BATCH, **VOCABULARIES, **sizes},
        )
        # A run that was stopped during the first model has no checkpoint of the second.
        begun = not exact or any((options.output / name).glob("*.safetensors"))
        done = options.run(
            lesson,
            lambda learner: f"{right(learner, tests):.1%} of the held-out days are correct",
            part=name,
            resume=options.resume and begun,
        )
        draw(options, name, done.learners, held_out)
        exact[title] = {framework: right(learner, tests) for framework, learner in done.learners.items()}
        for framework, learner in done.learners.items() if said is not None else ():
            (written,) = translate(learner, said[None])
            typer.echo(f"{NAMES[framework]}: {title} translates {say} to {dates.text_of(written)}")
    for title, found in exact.items():
        options.demand(f"exact match of {title}", found, BAR)


def texts_of(some: list[date], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Test data: texts of random days in all locales, `(texts, LENGTH)`, and their ISO dates, `(texts, WRITTEN)`."""
    rng = np.random.default_rng(seed)
    chosen = [some[i] for i in rng.choice(len(some), TESTED * len(LOCALES), replace=False)]
    texts = [dates.tokens(dates.write(day, LOCALES[i % len(LOCALES)], rng)) for i, day in enumerate(chosen)]
    return np.stack(texts), np.stack([dates.iso(day) for day in chosen])


def behind(target: np.ndarray) -> np.ndarray:
    """The decoder's input for teacher forcing: the target shifted right, with START in front."""
    return np.concatenate([np.full_like(target[:, :1], START), target[:, :-1]], axis=1)


def translate(learner: Any, source: np.ndarray) -> np.ndarray:
    """Translate texts with greedy decoding, `(texts, WRITTEN)`."""
    read = learner.array(source)
    marks = {"start_token": START, "eos_token": dates.STOP, "pad_token": PAD}
    return np.asarray(learner.models.generate(learner.model, read, dates.WRITTEN, there(read), **marks))


def right(learner: Any, tests: tuple[np.ndarray, np.ndarray]) -> float:
    """The fraction of texts that are translated without any error."""
    source, target = tests
    return float((translate(learner, source) == target).all(-1).mean())


# ---- The picture --------------------------------------------------------------------------------------------


def draw(options: Options, name: str, learners: dict[str, Any], held_out: list[date]) -> None:
    """Draw the model's cross-attention on held-out days, averaged over the heads of the first layer."""
    texts = [dates.forms(day, locale)[0] for day, locale in zip(held_out, SHOWN, strict=False)]
    source = np.stack([dates.tokens(text) for text in texts])
    for framework, learner in learners.items():
        written = translate(learner, source)
        looked = learner.apply(looks, source, behind(written))  # texts heads written source
        figure = plots.alignments(
            [each[:, :-1, : len(text)] for each, text in zip(looked, texts, strict=True)],
            [list(text) for text in texts],
            [list(dates.text_of(row, "·")[:-1]) for row in written],
            texts,
            title=f"Cross-attention of {MODELS[name][0]} on dates ({NAMES[framework]})",
            subtitle="Source along the top, output down the side; a frame marks the largest weight of each row.",
        )
        plots.save(figure, options.output / name / f"alignment-{framework}.png")


if __name__ == "__main__":
    main()
