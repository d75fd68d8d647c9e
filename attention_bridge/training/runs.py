"""Training runs in one or both frameworks, with progress bar, checkpoints and loss curves."""

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

# Name and required packages of each framework; JAX needs torch too, for its twin learner.
NAMES = {"torch": "PyTorch", "jax": "JAX"}
NEEDS = {"torch": ("torch",), "jax": ("torch", "jax", "flax", "optax")}
CURVES = "curves.png"
CHECKPOINTS = 10  # checkpoints per run
CLOSE = 1e-3  # relative difference below which two losses look equal


class Outcome(NamedTuple):
    """Result of a training run.

    Attributes:
        learners: learners by framework, each with the trained model in `model`.
        losses: losses by framework, `(steps)`.
        difference: largest relative difference between the losses of both frameworks; None for a single framework.
    """

    learners: dict[str, Any]
    losses: dict[str, np.ndarray]
    difference: float | None


def learner_of(framework: str, lesson: Lesson, dtype: str = "float32") -> Any:
    """Make the learner of a lesson in `torch` or `jax`.

    Raises:
        InputError: the framework is unknown or not installed.
    """
    if framework not in NAMES:
        raise InputError(f"framework must be one of {', '.join(NAMES)}, got {framework!r}")
    require(NEEDS[framework], extra=",".join(NEEDS[framework][:2]))
    module = importlib.import_module(f"attention_bridge.training.in_{framework}")
    return module.Learner(lesson, dtype)


def train(learner: Any, until: int | None = None) -> Iterator[float]:
    """Train from the learner's current step on, and yield the loss of each step.

    Args:
        learner: learner of either framework.
        until: number of steps to reach; None for all steps of the lesson.

    Raises:
        InputError: `until` is out of range, or a loss is not finite.
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
    """Largest difference between two curves, relative to the second."""
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
    """Train a lesson in one or both frameworks, and draw the loss curves.

    With `both`, PyTorch trains first and then JAX, from the same initial weights on the same batches. Each framework
    writes its own checkpoint. Ctrl-C stops after the current step and writes a checkpoint.

    Args:
        lesson: the lesson to train.
        framework: `torch`, `jax` or `both`.
        output: directory for checkpoints and pictures of this lesson; created if it does not exist.
        resume: whether to resume from a checkpoint in `output`: a single framework resumes from the newest one, written
            by either framework; with `both`, each resumes from its own.
        dtype: dtype of weights and arithmetic; float64 in JAX needs `JAX_ENABLE_X64`.
        until: number of steps to reach; None for all steps of the lesson.
        report: function from the learner to a line of text shown during training; None for none.
        reports: number of such lines in a run.

    Raises:
        InputError: the framework is unknown, `until` is out of range, the directory cannot be made, or a loss is not
            finite.
        CheckpointError: there is no checkpoint to resume from, or it is from another lesson.
        KeyboardInterrupt: the user stopped the run.
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
    """Describe how long two loss curves agree; rounding differences can grow with every step."""
    far = np.flatnonzero(np.abs(losses["torch"] / losses["jax"] - 1.0) > CLOSE)
    if not far.size:
        return f"the curves agree in all {len(losses['torch'])} steps"
    return f"less than {CLOSE:g} in the first {far[0]} steps; rounding differences grow with every step"


class _Kept:
    """Losses of a run and the frameworks that took its steps, with the path of its checkpoint."""

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
        """The frameworks that took the steps, in words."""
        return ", ".join(
            NAMES[who] + (f" from step {first + 1}" if first else "") for who, first in self.taken_by
        )

    def write(self) -> None:
        """Write the checkpoint."""
        checkpoint = Checkpoint(self.learner.save(), np.array(self.losses), self.taken_by)
        write_checkpoint(self.path, self.learner.lesson, checkpoint)


def _begun(lesson: Lesson, chosen: tuple[str, ...], output: Path, dtype: str) -> dict[str, Checkpoint]:
    """Read the checkpoints to resume from."""
    paths = [output / f"{name}.safetensors" for name in NAMES]
    there = sorted((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime_ns)
    if not there:
        raise CheckpointError(
            f"{output} holds no run to resume: there is neither {paths[0].name} nor {paths[1].name}"
        )
    if len(chosen) == 1:
        return {chosen[0]: read_checkpoint(there[-1], lesson, dtype)}
    return {path.stem: read_checkpoint(path, lesson, dtype) for path in there}


def _is_due(done: int, steps: int, times: int) -> bool:
    """Whether an event that happens `times` times in a run, last at its end, is due after step `done`."""
    return done * times // steps > (done - 1) * times // steps


def make_directory(path: Path) -> None:
    """Make a directory if it does not exist.

    Raises:
        InputError: the directory cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output must be a directory, but {path} cannot be made: {error.strerror}"
        ) from error


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Defer Ctrl-C to the end of the step, so that weights are never half-updated; a second Ctrl-C aborts at once.

    If the signal is ignored, as under `nohup`, it stays ignored.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread receives signals
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

    plots.save(plots.curves(losses, title=f"{lesson.name}: training loss"), path)
