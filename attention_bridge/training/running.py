"""A run of a lesson: in one framework or in both, with a bar, checkpoints and a picture of the losses."""

from __future__ import annotations

import importlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attention_bridge.errors import CheckpointError, InputError, require
from attention_bridge.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from attention_bridge.training.lessons import Lesson, check_until

# How each framework is called, and what a run in it needs; that of JAX is told from PyTorch's.
NAMES = {"torch": "PyTorch", "jax": "JAX"}
NEEDS = {"torch": ("torch",), "jax": ("torch", "jax", "flax", "optax")}
CURVES = "curves.png"
CHECKPOINTS = 10  # in a run
CLOSE = 1e-3  # two losses that look the same


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        learners: by framework, with the trained model in `model`.
        losses: by framework, `(steps)`.
        difference: the largest relative difference of the losses, or None from one framework.
    """

    learners: dict[str, Any]
    losses: dict[str, np.ndarray]
    difference: float | None


def learner_of(framework: str, lesson: Lesson, dtype: str = "float32") -> Any:
    """A model that can take the steps of a lesson, in `torch` or `jax`; only that framework is imported.

    Raises:
        InputError: there is no such framework here.
    """
    if framework not in NAMES:
        raise InputError(f"framework must be one of {', '.join(NAMES)}, got {framework!r}")
    require(NEEDS[framework], extra=",".join(NEEDS[framework][:2]))
    module = importlib.import_module(f"attention_bridge.training.in_{framework}")
    return module.Learner(lesson, dtype)


def train(learner: Any, until: int | None = None) -> Iterator[float]:
    """Take the steps of a lesson from where the learner is, and give the loss of each.

    Args:
        learner: of either framework.
        until: the step before which to stop; the lesson's end if None.

    Raises:
        InputError: there is no such step, or a loss is no number.
    """
    lesson = learner.lesson
    until = lesson.steps if until is None else until
    check_until(lesson, learner.done, until)
    while learner.done < until:
        loss = learner.step(lesson.batch(learner.done))
        if not math.isfinite(loss):
            raise InputError(
                f"the loss of step {learner.done} is {loss}: lr {lesson.optimizer.lr} may be too large"
            )
        yield loss


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far two curves are from each other at most, relative to the second."""
    return float(np.max(np.abs(np.asarray(one) / np.asarray(other) - 1.0)))


def run(
    lesson: Lesson,
    framework: str = "both",
    *,
    output: Path,
    resume: bool = False,
    dtype: str = "float32",
    until: int | None = None,
    report: Callable[[Any], str] | None = None,
    reports: int = 5,
) -> Outcome:
    """Learn a lesson, and draw the losses.

    With `both`, PyTorch and then JAX begin with the same weights and are given the same batches. Each framework
    keeps its run in a checkpoint of its own. Ctrl-C stops after the step that is under way, with a checkpoint.

    Args:
        lesson: what is learnt.
        framework: `torch`, `jax` or `both`.
        output: the directory for checkpoints and pictures of this lesson; made if need be.
        resume: whether to go on from the checkpoint there: one framework from the newest, whichever framework
            wrote it; both from their own.
        dtype: of weights and arithmetic; JAX has float64 where 64-bit numbers are enabled (`JAX_ENABLE_X64`).
        until: the step before which to stop; the lesson's end if None.
        report: from the learner to a text that is shown as it learns.
        reports: how many times in a run.

    Raises:
        InputError: there is no such framework or step, no room for the directory, or a loss is no number.
        CheckpointError: there is no checkpoint to go on from, or it is of another lesson.
        KeyboardInterrupt: the run was stopped.
    """
    chosen = tuple(NAMES) if framework == "both" else (framework,)
    require(["matplotlib"], extra="plot")
    make_directory(output)
    until = lesson.steps if until is None else until
    begun = _begun(lesson, chosen, output, dtype) if resume else {}
    learners = {name: learner_of(name, lesson, dtype) for name in chosen}
    for name, checkpoint in begun.items():
        learners[name].load(checkpoint.state)
        check_until(lesson, learners[name].done, until)

    losses, labels = {}, {}
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(highlight=False)
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=console) as bars:
        for name, learner in learners.items():
            bar = bars.add_task(NAMES[name], total=until, completed=learner.done, loss="")
            kept = _Kept(output / f"{name}.safetensors", learner, begun.get(name))
            with _stoppable() as stop:
                for loss in train(learner, until):
                    kept.losses.append(loss)
                    bars.update(bar, advance=1, loss=f"loss {loss:.4f}")
                    if report is not None and _is_due(learner.done, lesson.steps, reports):
                        console.print(f"{NAMES[name]}, step {learner.done}: {report(learner)}", markup=False)
                    if stop.is_set() or _is_due(learner.done, lesson.steps, CHECKPOINTS):
                        kept.write()
                    if stop.is_set():
                        raise KeyboardInterrupt(f"stopped after step {learner.done} of {lesson.steps}")
            kept.write()
            losses[name], labels[kept.label] = np.array(kept.losses), np.array(kept.losses)
    _draw(output / CURVES, lesson, labels)
    difference = apart(losses["torch"], losses["jax"]) if len(losses) == 2 else None
    if difference is not None:
        console.print(f"largest relative difference of the losses: {difference:.1e}; {_together(losses)}")
    console.print(f"curves and checkpoints are in {output}", markup=False, soft_wrap=True)
    return Outcome(learners, losses, difference)


def _together(losses: dict[str, np.ndarray]) -> str:
    """For how long two runs were one: each step passes on the rounding of those before, and may make it grow."""
    far = np.flatnonzero(np.abs(losses["torch"] / losses["jax"] - 1.0) > CLOSE)
    if not far.size:
        return f"the curves are one in all {len(losses['torch'])} steps"
    return f"less than {CLOSE:g} in the first {far[0]} steps, for rounding grows from step to step"


class _Kept:
    """The losses of a run, and who took its steps, with a place on disk."""

    def __init__(self, path: Path, learner: Any, begun: Checkpoint | None):
        self.path, self.learner = path, learner
        self.losses: list[float] = [] if begun is None else begun.losses.tolist()
        self.taken_by = () if begun is None else begun.taken_by
        if learner.done < learner.lesson.steps and (
            not self.taken_by or self.taken_by[-1][0] != learner.framework
        ):
            self.taken_by = (*self.taken_by, (learner.framework, learner.done))

    @property
    def label(self) -> str:
        """Which framework took the steps."""
        return ", ".join(
            NAMES[who] + (f" from step {first + 1}" if first else "") for who, first in self.taken_by
        )

    def write(self) -> None:
        """Write the checkpoint."""
        checkpoint = Checkpoint(self.learner.save(), np.array(self.losses), self.taken_by)
        write_checkpoint(self.path, self.learner.lesson, checkpoint)


def _begun(lesson: Lesson, chosen: tuple[str, ...], output: Path, dtype: str) -> dict[str, Checkpoint]:
    """The checkpoints to go on from."""
    paths = [output / f"{name}.safetensors" for name in NAMES]
    there = sorted((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime_ns)
    if not there:
        raise CheckpointError(
            f"{output} holds no run to go on from: there is neither {paths[0].name} nor {paths[1].name}"
        )
    if len(chosen) == 1:
        return {chosen[0]: read_checkpoint(there[-1], lesson, dtype)}
    return {path.stem: read_checkpoint(path, lesson, dtype) for path in there}


def _is_due(done: int, steps: int, times: int) -> bool:
    """Whether something that happens so many times in a run, the last at its end, does after this step."""
    return done * times // steps > (done - 1) * times // steps


def make_directory(path: Path) -> None:
    """Make a directory, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output must be a directory, but {path} cannot be made: {error.strerror}"
        ) from error


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C is noted, for a step that is broken off leaves half of the weights stepped; a second one breaks off.

    Where it is ignored, as `nohup` has it in the background, it stays ignored.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread is told of signals
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _draw(path: Path, lesson: Lesson, losses: dict[str, np.ndarray]) -> None:
    from attention_bridge import plots

    plots.save(plots.curves(losses, title=f"{lesson.name}: what is learnt, step by step"), path)
