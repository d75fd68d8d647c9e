"""Dates as people write them in 31 locales become ISO dates, sign by sign, the same in PyTorch and in JAX.

python examples/translate_dates.py --framework both --say "le 3 octobre 1987"

Two models learn it: a Transformer, and the recurrent encoder-decoder that attention was made for. A tenth of all days
from 1900 to 2099 is kept for the test: no text that is learnt from shows one of them, in any locale. At the end the
script draws for each model the losses (`curves.png`), and where in a text it looks as it writes (`alignment-*.png`).
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
TESTED = 25  # days in each locale
SHOWN = ("en", "el", "hy", "ru")  # locales in the picture
VOCABULARIES = {"src_vocab_size": len(dates.characters()) + 1, "tgt_vocab_size": len(SIGNS) + 3}
TRANSFORMER = {"embed_dim": 64, "num_heads": 4, "num_layers": 2, "ffn_dim": 128, "max_len": dates.LENGTH}
RECURRENT = {"embed_dim": 32, "hidden_dim": 128}


# ---- The models: the same lines for both frameworks ---------------------------------------------------------


def transformer(models: Any, **factory: Any) -> Any:
    """The Transformer of `torch_attention.models` or of `jax_attention.models`."""
    return models.SimpleSeq2Seq(**VOCABULARIES, **TRANSFORMER, **factory)


def recurrent(models: Any, **factory: Any) -> Any:
    """Two GRUs that read, one that writes, and Bahdanau's attention between them."""
    mirror = importlib.import_module(models.__name__.partition(".")[0])  # torch_attention or jax_attention
    size = RECURRENT["hidden_dim"]
    attention = mirror.BasicAttention(query_dim=size, key_dim=size, hidden_dim=size // 2, **factory)
    return models.RecurrentSeq2Seq(**VOCABULARIES, **RECURRENT, attention=attention, **factory)


def scores(model: Any, source: Any, written: Any) -> Any:
    """A score for each sign that may come next, behind each that is written."""
    return model.run(source, written, there(source), need_weights=False).output


def looks(model: Any, source: Any, written: Any) -> Any:
    """The weights of the first cross-attention, `(texts, heads, written, source)`."""
    return model.run(source, written, there(source)).cross_weights[0]


def there(source: Any) -> Any:
    """The mask of texts of several lengths: True where a character is."""
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
        Literal["transformer", "recurrent", "both"], typer.Option(help="Which learns.")
    ] = "both",
    say: Annotated[str | None, typer.Option(help="A date of yours to translate at the end.")] = None,
) -> None:
    """Learn to translate dates of many languages to ISO, with a Transformer and with an RNN."""
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
        # A run that was stopped in the first model has nothing of the second.
        begun = not exact or any((options.output / name).glob("*.safetensors"))
        done = options.run(
            lesson,
            lambda learner: f"{right(learner, tests):.1%} of the days held out are right",
            part=name,
            resume=options.resume and begun,
        )
        draw(options, name, done.learners, held_out)
        exact[title] = {framework: right(learner, tests) for framework, learner in done.learners.items()}
        for framework, learner in done.learners.items() if said is not None else ():
            (written,) = translate(learner, said[None])
            typer.echo(f"{NAMES[framework]}: {say} is {dates.text_of(written)}, says {title}")
    for title, found in exact.items():
        options.demand(f"exact match of {title}", found, BAR)


def texts_of(some: list[date], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of some days, in all locales, `(texts, LENGTH)`, and their translations, `(texts, WRITTEN)`."""
    rng = np.random.default_rng(seed)
    chosen = [some[i] for i in rng.choice(len(some), TESTED * len(LOCALES), replace=False)]
    texts = [dates.tokens(dates.write(day, LOCALES[i % len(LOCALES)], rng)) for i, day in enumerate(chosen)]
    return np.stack(texts), np.stack([dates.iso(day) for day in chosen])


def behind(target: np.ndarray) -> np.ndarray:
    """What is written before each sign: START, and all signs but the last."""
    return np.concatenate([np.full_like(target[:, :1], START), target[:, :-1]], axis=1)


def translate(learner: Any, source: np.ndarray) -> np.ndarray:
    """What the model writes for each text, the likeliest sign each time, `(texts, WRITTEN)`."""
    read = learner.array(source)
    marks = {"start_token": START, "eos_token": dates.STOP, "pad_token": PAD}
    return np.asarray(learner.models.generate(learner.model, read, dates.WRITTEN, there(read), **marks))


def right(learner: Any, tests: tuple[np.ndarray, np.ndarray]) -> float:
    """The part of the texts whose dates are right in every sign."""
    source, target = tests
    return float((translate(learner, source) == target).all(-1).mean())


# ---- The picture --------------------------------------------------------------------------------------------


def draw(options: Options, name: str, learners: dict[str, Any], held_out: list[date]) -> None:
    """Where the model looks as it writes days that were held out; heads of the first layer are averaged."""
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
            title=f"Where {MODELS[name][0]} looks as it writes a date ({NAMES[framework]})",
            subtitle="Along the top what it reads, down the side what it writes; framed is what it looks at most.",
        )
        plots.save(figure, options.output / name / f"alignment-{framework}.png")


if __name__ == "__main__":
    main()
