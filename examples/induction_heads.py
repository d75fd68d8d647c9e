"""A two-layer Transformer learns to copy, and the head that does it is shown, the same in PyTorch and in JAX.

python examples/induction_heads.py --framework both

In a sequence of random letters a stretch comes again. No letter tells which is next, but what stood behind its first
occurrence does. Two heads find it together (Elhage et al. 2021): one of the first layer tells each letter which stood
before it, and one of the second looks from a letter to the place whose letter before is the same: an induction head.
The loss falls at once when the two appear (Olsson et al. 2022): `learning.png`. `heads.png` shows every head,
`induction.png` the one that copies.

Where the loss falls, differences in rounding grow fast. Until there the curves of the two frameworks are one; after it
they fall together and do not coincide, in float64 neither. With a learning rate at which they do, no such heads appear.
"""

from typing import Any, NamedTuple

import numpy as np

from attention_bridge import plots
from attention_bridge.plots import style
from attention_bridge.training import IGNORED, NAMES, AdamW, Batch, Lesson, Options, example

BAR = 0.97
BATCH, TEST = 64, 256  # sequences
LENGTH, STRETCH = 32, (8, 12)  # letters of a sequence; the fewest and the most that come again
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZES = {
    "vocab_size": len(LETTERS),
    "embed_dim": 64,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 64,
    "max_len": LENGTH,
}
KINDS = {"induction": "#00a6a6", "previous letter": "#e66101"}  # of heads, and the colours that mark them


# ---- The data -----------------------------------------------------------------------------------------------


class Sequences(NamedTuple):
    """Letters by number, and what is asked; each array is `(sequences, LENGTH - 1)`.

    Attributes:
        letters: what is read.
        labels: the letter that comes next where it is a copy, but not the first one, which none can know.
        earlier: where each letter stands for the first time.
    """

    letters: np.ndarray
    labels: np.ndarray
    earlier: np.ndarray


def sequences(rng: np.random.Generator, number: int) -> Sequences:
    """Letters in random order, none twice, but that a stretch of them, of any length and place, ends the sequence."""
    letters = rng.permuted(np.tile(np.arange(len(LETTERS), dtype=np.int32), (number, 1)), axis=1)
    lengths = rng.integers(STRETCH[0], STRETCH[1] + 1, (number, 1))
    starts = rng.integers(0, LENGTH - 2 * lengths + 1)
    place, copy = np.arange(LENGTH), LENGTH - lengths
    earlier = np.where(place >= copy, place - copy + starts, place)
    letters = np.take_along_axis(letters, earlier, axis=1)
    labels = np.where(place > copy, letters, IGNORED)
    return Sequences(letters[:, :-1], labels[:, 1:], earlier[:, :-1])


# ---- The model: the same lines for both frameworks ----------------------------------------------------------


def build(models: Any, **factory: Any) -> Any:
    """The decoder of `torch_attention.models` or of `jax_attention.models`."""
    return models.Decoder(models.DecoderConfig(**SIZES), **factory)


def scores(model: Any, letters: Any) -> Any:
    """A score for each letter as the next one."""
    return model(letters).output


def looks(model: Any, letters: Any) -> Any:
    """These scores, and the attention weights of each layer, `(sequences, heads, letters, letters)`."""
    read = model(letters, need_weights=True)
    return read.output, read.weights


# ---- What a head does ---------------------------------------------------------------------------------------


def kinds(weights: np.ndarray, given: Sequences) -> dict[str, np.ndarray]:
    """How much each head does of each kind, from 0 to 1, `(layers, heads)`.

    An induction head looks from a copied letter to the one behind its first occurrence; a head of the previous letter
    looks from that one to the letter before, which says what the induction head is to look for.

    Args:
        weights: `(layers, sequences, heads, letters, letters)`.
        given: what was read.
    """
    sequence, place = np.nonzero(given.labels != IGNORED)
    behind = given.earlier[sequence, place] + 1
    # Indices on both sides of a slice come first: sequences layers heads, before the mean.
    found = weights[:, sequence, :, place, behind].mean(axis=0)  # layers heads
    previous = weights[:, sequence, :, behind, behind - 1].mean(axis=0)  # layers heads
    return dict(zip(KINDS, (found, previous), strict=True))


# ---- The training -------------------------------------------------------------------------------------------


@example(steps=1200)
def main(options: Options) -> None:
    """Learn to copy with a Transformer of two layers."""
    fresh = sequences(np.random.default_rng([options.seed, options.steps]), TEST)  # no step has this number

    def batch(step: int) -> Batch:
        drawn = sequences(np.random.default_rng([options.seed, step]), BATCH)
        return Batch((drawn.letters,), drawn.labels)

    lesson = Lesson(
        "Copying",
        build,
        scores,
        batch,
        options.steps,
        AdamW(lr=1e-2, warmup=50, max_norm=1.0),
        options.seed,
        {"batch": BATCH, "stretch": STRETCH, **SIZES},
    )
    history: dict[str, list[tuple[int, dict[str, np.ndarray]]]] = {name: [] for name in options.frameworks}
    right = {}

    def report(learner: Any) -> str:
        guesses, weights = learner.apply(looks, fresh.letters)
        asked = fresh.labels != IGNORED
        right[learner.framework] = float((guesses.argmax(-1) == fresh.labels)[asked].mean())
        found = kinds(np.stack(weights), fresh)
        history[learner.framework].append((learner.done, found))
        most = ", ".join(f"{kind} {each.max():.2f}" for kind, each in found.items())
        return f"{right[learner.framework]:.1%} of the copies are right; the most of a head: {most}"

    done = options.run(lesson, report, reports=20)
    for learner in done.learners.values():
        report(learner)  # also where there was no step left to take
    draw_learning(options, done.losses, history)
    draw_heads(options, next(iter(done.learners.values())), fresh)
    options.demand("copied right", right, BAR)


# ---- The pictures -------------------------------------------------------------------------------------------


def draw_learning(options: Options, losses: dict[str, np.ndarray], history: dict[str, Any]) -> None:
    """The losses, what the best head of each kind does meanwhile, and what every head does in the end."""
    figure = style.sheet(12, 5.6, title="Copying is learnt when the two heads appear")
    parts = figure.subplot_mosaic([["loss", "induction"], ["score", "previous letter"]], width_ratios=[2, 1])
    for (name, seen), line in zip(history.items(), ("-", "--"), strict=False):
        steps = [step for step, _ in seen]
        parts["loss"].plot(np.arange(1, len(losses[name]) + 1), losses[name], line, label=NAMES[name])
        for kind, colour in KINDS.items():
            best = [found[kind].max() for _, found in seen]
            parts["score"].plot(steps, best, line, color=colour, marker=".", label=f"{kind}, {NAMES[name]}")
    parts["loss"].set(ylabel="loss", ylim=0)
    parts["score"].set(ylabel="most of a head", xlabel="step", ylim=(0, 1.02))
    for part in ("loss", "score"):
        parts[part].set_xlim(0, len(next(iter(losses.values()))))
        parts[part].legend(frameon=False)
        parts[part].spines[["top", "right"]].set_visible(False)
    _, ends = next(iter(history.values()))[-1]
    heads, layers = ([str(i) for i in range(SIZES[key])] for key in ("num_heads", "num_layers"))
    for kind in KINDS:
        colours = style.scale(ends[kind], top=1.0)
        plots.heatmap(parts[kind], ends[kind], layers, heads, title=kind, cell=0.6, **colours)
        parts[kind].set(xlabel="head", ylabel="layer")
        for (layer, head), score in np.ndenumerate(ends[kind]):
            ink = "white" if score > 0.5 else style.INK
            parts[kind].text(head, layer, f"{score:.2f}", ha="center", va="center", color=ink)
    plots.save(figure, options.output / "learning.png")


def draw_heads(options: Options, learner: Any, given: Sequences) -> None:
    """Every head on one sequence, with one of each kind marked, and the induction head with the letters."""
    weights = np.stack(learner.apply(looks, given.letters)[1])
    letters = [LETTERS[i] for i in given.letters[0]]
    figure = plots.head_grid(list(weights[:, 0]), letters, title="The heads that copy")
    for (kind, found), layer in zip(kinds(weights, given).items(), (1, 0), strict=True):
        head = int(found[layer].argmax())
        axes = figure.axes[layer * SIZES["num_heads"] + head]
        axes.set_title(f"{layer} · {head}: {kind}", color=KINDS[kind], fontweight="bold")
        axes.spines[:].set(visible=True, edgecolor=KINDS[kind], linewidth=3)
        if kind == "induction":
            title = f"Induction: head {head} of layer {layer}"
            alone = plots.one_head(weights[layer, 0], letters, head=head, title=title)
    for axis in (alone.axes[0].xaxis, alone.axes[0].yaxis):
        for place, label in enumerate(axis.get_ticklabels()):
            if letters[place] in letters[:place]:
                label.set(color=KINDS["induction"], fontweight="bold")
    plots.save(figure, options.output / "heads.png")
    plots.save(alone, options.output / "induction.png")


if __name__ == "__main__":
    main()
