"""A two-layer Transformer learns to copy with an induction head, with the same code in PyTorch and in JAX.

python examples/induction_heads.py --framework both

A part of a random sequence of letters is repeated at its end. A letter alone does not determine the next one, but the
letter after its first occurrence does. Two heads find that letter together (Elhage et al. 2021). A previous-letter head
of the first layer writes the preceding letter into each position. An induction head of the second layer attends from a
letter to the position whose preceding letter is the same. The loss drops when the two heads appear (Olsson et al.
2022). `learning.png` shows the loss, `heads.png` all heads, and `induction.png` the induction head.

The drop amplifies rounding differences. Before it, the loss curves of the two frameworks coincide; after it, they have
the same shape but differ, even in float64. At a learning rate at which they coincide, no induction head appears.
"""

from typing import Any, NamedTuple

import numpy as np

from attention_bridge import plots
from attention_bridge.plots import style
from attention_bridge.training import IGNORED, NAMES, AdamW, Batch, Lesson, Options, example

BAR = 0.97
BATCH, TEST = 64, 256  # sequences
LENGTH, STRETCH = 32, (8, 12)  # length of a sequence; least and largest length of the repeated part
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZES = {
    "vocab_size": len(LETTERS),
    "embed_dim": 64,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 64,
    "max_len": LENGTH,
}
KINDS = {"induction": "#00a6a6", "previous letter": "#e66101"}  # kinds of heads and their colours


# ---- The data -----------------------------------------------------------------------------------------------


class Sequences(NamedTuple):
    """A batch of sequences; each array is `(sequences, LENGTH - 1)`.

    Attributes:
        letters: input tokens.
        labels: next letter in the repeated part, except its first letter, which is unpredictable; else `IGNORED`.
        earlier: position of the first occurrence of each letter.
    """

    letters: np.ndarray
    labels: np.ndarray
    earlier: np.ndarray


def sequences(rng: np.random.Generator, number: int) -> Sequences:
    """Random sequences of distinct letters, except that an earlier part of random length is repeated at the end."""
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
    """The logits of the next letter."""
    return model(letters).output


def looks(model: Any, letters: Any) -> Any:
    """The logits, and the attention weights of each layer, `(sequences, heads, letters, letters)`."""
    read = model(letters, need_weights=True)
    return read.output, read.weights


# ---- Kinds of heads -----------------------------------------------------------------------------------------


def kinds(weights: np.ndarray, given: Sequences) -> dict[str, np.ndarray]:
    """The score of each head for each kind, from 0 to 1, `(layers, heads)`.

    The score is the mean attention weight on the position that defines the kind. An induction head attends from a
    repeated letter to the letter after its first occurrence. A previous-letter head attends from that letter to the one
    before it.

    Args:
        weights: attention weights, `(layers, sequences, heads, letters, letters)`.
        given: the sequences.
    """
    sequence, place = np.nonzero(given.labels != IGNORED)
    behind = given.earlier[sequence, place] + 1
    # Indices on both sides of a slice move their axis to the front: (pairs, layers, heads) before the mean.
    found = weights[:, sequence, :, place, behind].mean(axis=0)  # layers heads
    previous = weights[:, sequence, :, behind, behind - 1].mean(axis=0)  # layers heads
    return dict(zip(KINDS, (found, previous), strict=True))


# ---- The training -------------------------------------------------------------------------------------------


@example(steps=1200)
def main(options: Options) -> None:
    """Learn to copy with a two-layer Transformer."""
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
        return f"{right[learner.framework]:.1%} of the copies are correct; best score of a head: {most}"

    done = options.run(lesson, report, reports=20)
    for learner in done.learners.values():
        report(learner)  # needed if a resumed run has no step left
    draw_learning(options, done.losses, history)
    draw_heads(options, next(iter(done.learners.values())), fresh)
    options.demand("copied correctly", right, BAR)


# ---- The pictures -------------------------------------------------------------------------------------------


def draw_learning(options: Options, losses: dict[str, np.ndarray], history: dict[str, Any]) -> None:
    """Draw the losses, the best score of each kind during training, and the final scores of all heads."""
    figure = style.sheet(12, 5.6, title="The model learns to copy when the two heads appear")
    parts = figure.subplot_mosaic([["loss", "induction"], ["score", "previous letter"]], width_ratios=[2, 1])
    for (name, seen), line in zip(history.items(), ("-", "--"), strict=False):
        steps = [step for step, _ in seen]
        parts["loss"].plot(np.arange(1, len(losses[name]) + 1), losses[name], line, label=NAMES[name])
        for kind, colour in KINDS.items():
            best = [found[kind].max() for _, found in seen]
            parts["score"].plot(steps, best, line, color=colour, marker=".", label=f"{kind}, {NAMES[name]}")
    parts["loss"].set(ylabel="loss", ylim=0)
    parts["score"].set(ylabel="best score of a head", xlabel="step", ylim=(0, 1.02))
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
    """Draw all heads on one sequence, with the best head of each kind marked, and the induction head alone."""
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
