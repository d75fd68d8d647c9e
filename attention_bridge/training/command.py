"""The command-line options that all examples share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attention_bridge.errors import REFUSALS
from attention_bridge.training.lessons import Lesson
from attention_bridge.training.runs import NAMES, Outcome, make_directory, run

FRAMEWORK = Annotated[Literal["torch", "jax", "both"], typer.Option(help="Framework to train in.")]
QUICK = Annotated[bool, typer.Option("--quick", help="A short run that does not need to reach the target.")]
SEED = Annotated[int, typer.Option(min=0, help="Seed of weights, batches and all other random numbers.")]
DTYPE = Annotated[
    Literal["float32", "float64"] | None,
    typer.Option(
        help="Dtype of weights and arithmetic; by default float64 if both frameworks run, so that rounding does not "
        "separate their curves, else float32."
    ),
]
OUTPUT = Annotated[Path | None, typer.Option(help="Directory for pictures and checkpoints.")]
STEPS = Annotated[int | None, typer.Option(min=1, help="Number of training steps.")]
RESUME = Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint of either framework.")]


@dataclass(frozen=True)
class Options:
    """Options that the user of an example chose.

    Attributes:
        name: name of the example.
        framework: `torch`, `jax` or `both`.
        quick: whether this is a short run without a target.
        seed: seed of all random numbers.
        output: directory for pictures and checkpoints; it exists.
        steps: number of training steps.
        dtype: dtype of weights and arithmetic.
        resume: whether to resume from the checkpoint in `output`.
    """

    name: str
    framework: str
    quick: bool
    seed: int
    output: Path
    steps: int
    dtype: str
    resume: bool

    @property
    def frameworks(self) -> tuple[str, ...]:
        """The chosen frameworks: `torch`, `jax` or both."""
        return tuple(NAMES) if self.framework == "both" else (self.framework,)

    def run(
        self,
        lesson: Lesson,
        report: Callable[[Any], str] | None = None,
        *,
        reports: int = 5,
        part: str = "",
        resume: bool | None = None,
    ) -> Outcome:
        """Train a lesson with the chosen options, by `attention_bridge.training.run`, and with its errors.

        Args:
            lesson: the lesson to train.
            report: function from the learner to a line of text shown during training; None for none.
            reports: number of such lines in a run.
            part: subdirectory of `output` for one lesson of several.
            resume: whether to resume from the checkpoint; None for the user's choice.
        """
        return run(
            lesson,
            self.framework,
            output=self.output / part,
            resume=self.resume if resume is None else resume,
            dtype=self.dtype,
            report=report,
            reports=reports,
        )

    def demand(self, measure: str, found: Mapping[str, float], at_least: float) -> None:
        """Print the result of each framework, and exit with code 1 if one is below the target.

        With `quick` there is no target.

        Args:
            measure: name of the result, such as `accuracy`.
            found: result of each framework, a fraction of 1.
            at_least: target, a fraction of 1.
        """
        for framework, part in found.items():
            typer.echo(f"{NAMES[framework]}: {measure} {part:.2%} (target {at_least:.0%})")
        if not self.quick and min(found.values()) < at_least:
            raise typer.Exit(1)


def example(*, steps: int, quick_steps: int = 30) -> Callable[[Callable[..., None]], typer.Typer]:
    """Make a command from a function of `Options` and, optionally, options of its own.

    Bad input prints one sentence and exits with code 2; Ctrl-C exits with code 130.

    Args:
        steps: default number of training steps.
        quick_steps: default number of training steps with `--quick`.
    """
    shared: dict[str, tuple[Any, Any]] = {
        "framework": (FRAMEWORK, "both"),
        "quick": (QUICK, False),
        "seed": (SEED, 0),
        "output": (OUTPUT, None),
        "steps": (STEPS, None),
        "dtype": (DTYPE, None),
        "resume": (RESUME, False),
    }

    def decorate(main: Callable[..., None]) -> typer.Typer:
        name = Path(inspect.getfile(main)).stem

        def command(**given: Any) -> None:
            asked = {key: given.pop(key) for key in shared}
            asked["steps"] = asked["steps"] or (quick_steps if asked["quick"] else steps)
            asked["dtype"] = asked["dtype"] or ("float64" if asked["framework"] == "both" else "float32")
            asked["output"] = asked["output"] or Path("attention-examples") / name
            # Set before a framework is imported: threads that wait by spinning are slow on a busy machine.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            try:
                with _numbers_of(asked["dtype"]):
                    make_directory(asked["output"])
                    main(Options(name=name, **asked), **given)
            except REFUSALS as error:
                typer.echo(f"{name}: {error}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as error:
                typer.echo(f"{name}: {error or 'stopped'}; --resume continues from the checkpoint", err=True)
                raise typer.Exit(130) from error

        own = list(inspect.signature(main, eval_str=True).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        options = [
            inspect.Parameter(key, keyword, annotation=annotation, default=default)
            for key, (annotation, default) in shared.items()
        ]
        options += [parameter.replace(kind=keyword) for parameter in own]
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {option.name: option.annotation for option in options}
        command.__doc__ = main.__doc__
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(command)
        return app

    return decorate


@contextmanager
def _numbers_of(dtype: str) -> Iterator[None]:
    """Enable 64-bit types in JAX for float64, if JAX is imported in this context."""
    before = os.environ.get("JAX_ENABLE_X64")
    if dtype == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ["JAX_ENABLE_X64"] = before
        else:
            os.environ.pop("JAX_ENABLE_X64", None)
