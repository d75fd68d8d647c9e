"""Port a PyTorch module of your own to a JAX module of your own: carry its weights, prove it, break it, train both.

python examples/port_your_own.py

No table of layouts knows these two models: their names differ, and so does the order of their axes.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import typer
from flax import nnx
from rich.console import Console
from torch import nn

from attention_bridge import compare, diagnose, transfer
from attention_bridge.weights import plan

VOCABULARY, EMBED, HEADS, HIDDEN, CLASSES = 50, 32, 4, 48, 6
HEAD_DIM = EMBED // HEADS
LEARNING_RATE = 0.05
NAMES = {"stack": "blocks", "mixer": "attention", "w_in": "expand", "w_out": "contract"}
console = Console(highlight=False)


class TorchBlock(nn.Module):
    """Causal attention with one fused projection, then a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(EMBED), nn.LayerNorm(EMBED)
        self.mixer = nn.MultiheadAttention(EMBED, HEADS, batch_first=True)
        self.w_in, self.w_out = nn.Linear(EMBED, HIDDEN), nn.Linear(HIDDEN, EMBED)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add attention and the feed-forward network to x, (batch, length, embed)."""
        y = self.ln1(x)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.mixer(y, y, y, attn_mask=later, need_weights=False)[0]
        return x + self.w_out(nn.functional.gelu(self.w_in(self.ln2(x))))


class TorchTagger(nn.Module):
    """Class logits of each token: a convolution, two blocks, batch statistics, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, EMBED)
        self.stem = nn.Conv1d(EMBED, EMBED, 3, padding=1)
        self.stack = nn.ModuleList([TorchBlock(), TorchBlock()])
        self.norm = nn.BatchNorm1d(EMBED)
        self.head = nn.Linear(EMBED, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, length, classes), of token numbers, (batch, length)."""
        x = self.stem(self.tokens(ids).mT).mT * math.sqrt(EMBED)
        for block in self.stack:
            x = block(x)
        return self.head(self.norm(x.mT).mT)


class FlaxBlock(nnx.Module):
    """The same block in Flax NNX; `mistake` breaks it on purpose."""

    def __init__(self, rngs: nnx.Rngs, mistake: str = "") -> None:
        self.norm1, self.norm2 = (nnx.LayerNorm(EMBED, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(HEADS, EMBED, decode=False, rngs=rngs)
        self.expand, self.contract = (
            nnx.Linear(EMBED, HIDDEN, rngs=rngs),
            nnx.Linear(HIDDEN, EMBED, rngs=rngs),
        )
        self.mistake = mistake

    def __call__(self, x: jax.Array) -> jax.Array:
        """Add attention and the feed-forward network to x, (batch, length, embed)."""
        mask = None if self.mistake == "mask" else jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        x = x + self.attention(self.norm1(x), mask=mask)
        hidden = self.expand(x if self.mistake == "norm" else self.norm2(x))
        return x + self.contract(jax.nn.gelu(hidden, approximate=self.mistake == "activation"))


class FlaxTagger(nnx.Module):
    """The same model in Flax NNX, with the channels last."""

    def __init__(self, rngs: nnx.Rngs, mistake: str = "") -> None:
        self.embed = nnx.Embed(VOCABULARY, EMBED, rngs=rngs)
        self.conv = nnx.Conv(EMBED, EMBED, (3,), rngs=rngs)
        self.blocks = nnx.List([FlaxBlock(rngs), FlaxBlock(rngs, mistake)])
        self.statistics = nnx.BatchNorm(EMBED, use_running_average=True, epsilon=1e-5, rngs=rngs)
        self.classifier = nnx.Linear(EMBED, CLASSES, rngs=rngs)
        self.mistake = mistake

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Logits, (batch, length, classes), of token numbers, (batch, length)."""
        x = self.conv(self.embed(ids))
        x = x if self.mistake == "scale" else x * math.sqrt(EMBED)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.statistics(x))


def main(steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 5) -> None:
    """Port a model of one's own, prove it, break it, and train both."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, VOCABULARY, (3, 10)), rng.integers(0, CLASSES, (3, 10))
    theirs = TorchTagger().eval()
    theirs.norm.running_mean.normal_()
    theirs.norm.running_var.uniform_(0.5, 2)
    ours = FlaxTagger(nnx.Rngs(0))

    chapter(1, "Carry the weights")
    report = plan(theirs, ours, names=NAMES)
    moved = sum(bool(match.patterns) for match in report.matched)
    say(f"{len(report.matched)} tensors of {type(ours).__name__} are filled; the axes of {moved} are moved.")
    transfer(theirs, ours, names=NAMES)
    before = {name: x.clone() for name, x in theirs.state_dict().items()}
    transfer(ours, theirs, names={there: here for here, there in NAMES.items()})
    same = sum(torch.equal(x, before[name]) for name, x in theirs.state_dict().items())
    say(f"And back: {same} of {len(before)} tensors are the same byte for byte.")

    chapter(2, "Prove it")
    found = compare(theirs, ours, ids, names=NAMES)
    outputs, gradients = ([each for each in found if each.kind == kind] for kind in ("output", "gradient"))
    equal = all(each.ok for each in found)
    say(f"Outputs differ by {max(x.diff for x in outputs):.1e}, and {len(gradients)} gradients by at most")
    say(f"{max(x.diff for x in gradients):.1e}: {'rounding explains it' if equal else 'NOT EQUAL'}.")

    chapter(3, "Break it, and ask the doctor")
    named = 0
    for mistake in ("mask", "norm", "activation", "scale"):
        broken = FlaxTagger(nnx.Rngs(0), mistake)
        transfer(theirs, broken, names=NAMES)
        diagnosis = diagnose(theirs, broken, ids, names=NAMES)
        named += diagnosis.status == "diagnosed"
        say(f"Doctor: {diagnosis.verdict}.")

    chapter(4, "Train both")
    losses = trained(theirs, ours, ids, labels, steps)
    for step, (one, other) in enumerate(losses):
        say(f"step {step}: PyTorch {one:.6f}, JAX {other:.6f}")
    apart = max(abs(one / other - 1) for one, other in losses)
    say(f"The losses differ by at most {apart:.1e}.")
    if not (equal and same == len(before) and named == 4 and apart < 1e-4):
        raise typer.Exit(1)


def trained(
    theirs: TorchTagger, ours: FlaxTagger, ids: np.ndarray, labels: np.ndarray, steps: int
) -> list[tuple[float, float]]:
    """The losses of steps of gradient descent in PyTorch and in JAX."""
    descent = torch.optim.SGD(theirs.parameters(), lr=LEARNING_RATE)
    optimizer = nnx.Optimizer(ours, optax.sgd(LEARNING_RATE), wrt=nnx.Param)

    def loss(model: FlaxTagger) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(
            model(jnp.asarray(ids)), jnp.asarray(labels)
        ).mean()

    found = []
    for _ in range(steps):
        descent.zero_grad()
        mine = nn.functional.cross_entropy(
            theirs(torch.from_numpy(ids)).flatten(0, 1), torch.from_numpy(labels).flatten()
        )
        mine.backward()
        descent.step()
        value, gradients = nnx.value_and_grad(loss)(ours)
        optimizer.update(ours, gradients)
        found.append((mine.item(), float(value)))
    return found


def chapter(number: int, title: str) -> None:
    """Print the title of a chapter."""
    console.print(f"\n{number}. {title}", style="bold")


def say(sentence: str) -> None:
    """Print a sentence as it is."""
    console.print(sentence, markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
