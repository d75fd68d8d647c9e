"""The command line that all examples share."""

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
from attention_bridge.training.running import NAMES, Outcome, make_directory, run

FRAMEWORK = Annotated[Literal["torch", "jax", "both"], typer.Option(help="Where to run.")]
QUICK = Annotated[bool, typer.Option("--quick", help="A short look: too short to meet the bar.")]
SEED = Annotated[int, typer.Option(min=0, help="Of the weights, the batches and all else that is drawn.")]
DTYPE = Annotated[
    Literal["float32", "float64"] | None,
    typer.Option(
        help="Of weights and arithmetic; float64 if both frameworks run, so that rounding does not grow until their "
        "curves part, else float32."
    ),
]
OUTPUT = Annotated[Path | None, typer.Option(help="Directory for pictures and checkpoints.")]
STEPS = Annotated[int | None, typer.Option(min=1, help="Steps of training.")]
RESUME = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, whoever wrote it.")]


@dataclass(frozen=True)
class Options:
    """What the user of an example asked for.

    Attributes:
        name: of the example.
        framework: `torch`, `jax` or `both`.
        quick: whether it only has to run.
        seed: of all that is drawn.
        output: the directory for pictures and checkpoints; it is there.
        steps: of training.
        dtype: of weights and arithmetic.
        resume: whether to go on from the checkpoint in `output`.
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
        """`torch`, `jax` or both of them."""
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
        """Learn a lesson as the user asked; further arguments and errors as in `attention_bridge.training.run`.

        Args:
            lesson: what is learnt.
            report: from the learner to a text that is shown as it learns.
            reports: how many times in a run.
            part: the directory below `output` of one lesson of several.
            resume: instead of what the user asked.
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

    def demand(self, what: str, found: Mapping[str, float], at_least: float) -> None:
        """Say what each framework came to, as parts of 1, and end in failure if one is below the bar.

        With `quick` nothing is demanded.
        """
        for framework, part in found.items():
            typer.echo(f"{NAMES[framework]}: {what} {part:.2%} (the bar is {at_least:.0%})")
        if not self.quick and min(found.values()) < at_least:
            raise typer.Exit(1)


def example(*, steps: int, quick_steps: int = 30) -> Callable[[Callable[..., None]], typer.Typer]:
    """Make a command of a function of `Options`, and of options of its own.

    What is refused is one sentence and exit code 2; Ctrl-C is exit code 130.

    Args:
        steps: of training, unless the user asks for others.
        quick_steps: the same with `--quick`.
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
            # Before a framework is imported. Threads that wait for each other by spinning are slow where
            # something else runs on the machine.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            try:
                with _numbers_of(asked["dtype"]):
                    make_directory(asked["output"])
                    main(Options(name=name, **asked), **given)
            except REFUSALS as error:
                typer.echo(f"{name}: {error}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as error:
                typer.echo(f"{name}: {error or 'stopped'}; --resume goes on from the checkpoint", err=True)
                raise typer.Exit(130) from error

        own = list(inspect.signature(main, eval_str=True).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        options = [
            inspect.Parameter(key, keyword, annotation=annotation, default=default)
            for key, (annotation, default) in shared.items()
        ]
        options += [parameter.replace(kind=keyword) for parameter in own]
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {option.name: option.annotation for option in options}
        command.__doc__ = main.__doc__
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(command)
        return app

    return decorate


@contextmanager
def _numbers_of(dtype: str) -> Iterator[None]:
    """JAX, if it is imported meanwhile, with 64-bit numbers for float64."""
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
