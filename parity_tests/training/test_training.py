"""Training: one lesson for both frameworks, runs moved between them, and bad input."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.parity.run import on_platform
from attention_bridge.training import (
    IGNORED,
    AdamW,
    Batch,
    Options,
    apart,
    example,
    in_jax,
    learner_of,
    read_checkpoint,
    run,
    train,
)
from attention_bridge.training.runs import _together
from parity_tests.helpers.lessons import curve, lesson_of, rounding_bound

LESSON = lesson_of("Decoder", 24)
STOP = 9
FRAMEWORKS = ("torch", "jax")


@pytest.mark.slow
def test_run_resumed_in_the_other_framework_follows_the_unbroken_curve(tmp_path, as_shipped):
    reference, bound = curve("torch", LESSON, "float64"), rounding_bound(LESSON)
    for first, second in (FRAMEWORKS, FRAMEWORKS[::-1]):
        output = tmp_path / first
        run(LESSON, first, output=output, until=STOP)
        done = run(LESSON, second, output=output, resume=True)
        assert apart(done.losses[second], reference) <= bound
        taken = read_checkpoint(output / f"{second}.safetensors", LESSON)
        assert taken.taken_by == ((first, 0), (second, STOP))
        assert (output / "curves.png").stat().st_size > 1000

        # A negative control: without the optimizer state the curves diverge.
        begun = read_checkpoint(output / f"{first}.safetensors", LESSON)
        learner = learner_of(second, LESSON)
        learner.load(begun.state._replace(moments={}))
        assert apart(np.array([*begun.losses, *train(learner)]), reference) > 2 * bound


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_run_resumed_in_its_framework_is_bit_exact(framework, as_shipped):
    learner = learner_of(framework, LESSON)
    _ = [*train(learner, STOP)]
    state = learner.save()
    losses = [*train(learner)]
    learner.load(state)
    assert learner.done == STOP
    assert [*train(learner)] == losses


def test_both_start_with_the_same_weights_and_jax_compiles_one_step(as_shipped):
    ours, theirs = (learner_of(framework, LESSON) for framework in FRAMEWORKS)
    for name, x in ours.save().weights.items():
        np.testing.assert_array_equal(x, theirs.save().weights[name])
    before = in_jax._step._cache_size()
    _ = [*train(theirs, 3)]
    theirs.load(theirs.save())
    _ = [*train(theirs, 5)]
    assert in_jax._step._cache_size() - before == 1


def test_ignored_labels_have_no_influence(as_shipped):
    inputs, labels = LESSON.batch(0)
    fewer = np.where(np.arange(labels.shape[1]) % 3 == 0, IGNORED, labels)
    for framework in FRAMEWORKS:
        with on_platform("cpu", float64=True):
            learner = learner_of(framework, LESSON, "float64")
            scores = learner.apply(LESSON.logits, *inputs)
            losses = (
                np.log(np.exp(scores).sum(-1)) - np.take_along_axis(scores, labels[..., None], -1)[..., 0]
            )
            assert learner.step(Batch(inputs, fewer)) == pytest.approx(
                losses[fewer != IGNORED].mean(), rel=1e-12
            )


def test_learning_rate_rises_linearly_and_falls_on_a_cosine():
    told = AdamW(warmup=3, final=0.1)
    factors = [told.factor(step, 11) for step in range(12)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[7] == pytest.approx(0.55)
    assert factors[11] == pytest.approx(0.1)
    assert {AdamW(final=1.0).factor(step, 11) for step in range(12)} == {1.0}


@pytest.fixture
def on_interrupt():
    """A function that sets the SIGINT handler, which is restored afterwards; shell background jobs ignore SIGINT."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_interrupted_run_stops_after_a_whole_step(tmp_path, as_shipped, on_interrupt):
    on_interrupt(signal.default_int_handler)

    def interrupt(learner):
        os.kill(os.getpid(), signal.SIGINT)
        return ""

    with pytest.raises(KeyboardInterrupt, match="after step 8 of 24"):
        run(LESSON, "torch", output=tmp_path, report=interrupt, reports=3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    done = run(LESSON, "torch", output=tmp_path, resume=True)
    np.testing.assert_array_equal(done.losses["torch"], curve("torch", LESSON, "float32"))


def test_run_that_ignores_interrupts_continues(tmp_path, as_shipped, on_interrupt):
    def interrupt(learner):
        os.kill(os.getpid(), signal.SIGINT)
        return ""

    on_interrupt(signal.SIG_IGN)
    done = run(LESSON, "torch", output=tmp_path, report=interrupt, reports=3)
    assert len(done.losses["torch"]) == LESSON.steps
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_run_that_cannot_be_resumed_raises(tmp_path, as_shipped):
    def refused(pattern, error=CheckpointError, lesson=LESSON, framework="torch", **options):
        with pytest.raises(error, match=pattern) as caught:
            run(lesson, framework, output=tmp_path, **options)
        assert "\n" not in str(caught.value)

    refused("holds no run to resume", resume=True)
    run(LESSON, "torch", output=tmp_path, until=STOP)
    other = dataclasses.replace(LESSON, name="Another lesson")
    refused("of Decoder, but this run trains Another lesson", lesson=other, resume=True)
    refused("steps 24, but this run has steps 23", lesson=dataclasses.replace(LESSON, steps=23), resume=True)
    wider = dataclasses.replace(LESSON, configuration={**LESSON.configuration, "embed_dim": 24})
    refused("embed_dim 12, but this run has embed_dim 24", lesson=wider, resume=True)
    refused("from a run in float32, but this run is in float64", resume=True, dtype="float64")
    refused("from 9 to steps, 24, got 8", InputError, resume=True, until=8)
    refused("from 0 to steps, 24, got 25", InputError, until=25)
    refused("one of torch, jax, got 'keras'", InputError, framework="keras")
    checkpoints.write(tmp_path / "torch.safetensors", {"x": np.ones(3)})
    refused("not a checkpoint of a training run", resume=True)
    (tmp_path / "torch.safetensors").write_bytes(b"torn")
    refused("a text that begins with 'torn', and holds no tensors", resume=True)
    with pytest.raises(InputError, match="steps must be at least 1"):
        dataclasses.replace(LESSON, steps=0)
    with pytest.raises(InputError, match="lr inf may be too large"):
        [*train(learner_of("torch", dataclasses.replace(LESSON, optimizer=AdamW(lr=float("inf")))))]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (1e-3, "the curves agree in all 3 steps"),
        (2e-3, "less than 0.001 in the first 2 steps; rounding differences grow"),
    ],
)
def test_report_says_how_long_two_runs_were_equal(part, said):
    losses = {"torch": np.array([3.0, 2.0, 1.0]), "jax": np.array([3.0, 2.0, 1.0 + part])}
    assert said in _together(losses)


def test_jax_without_64_bits_raises():
    with pytest.raises(InputError, match="set JAX_ENABLE_X64=1"):
        learner_of("jax", LESSON, "float64")


def test_moments_of_another_model_raise(as_shipped):
    learner = learner_of("torch", LESSON)
    _ = [*train(learner, 1)]
    state = learner.save()
    name = next(iter(state.moments["exp_avg"]))
    for wrong in ({}, {**state.moments["exp_avg"], name: np.ones((2, 3))}):
        with pytest.raises(InputError, match="exp_avg must fit the parameters"):
            learner.load(state._replace(moments={**state.moments, "exp_avg": wrong}))


def test_torch_training_does_not_import_jax():
    program = "import sys, attention_bridge.training.in_torch; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_example_is_a_command_with_the_shared_options(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_ENABLE_X64", raising=False)
    seen, seen_by_jax = [], []

    @example(steps=50, quick_steps=4)
    def main(options: Options, *, size: int = 3) -> None:
        """Do something."""
        seen.append((options, size))
        seen_by_jax.append(os.environ.get("JAX_ENABLE_X64"))
        if size == 4:
            raise InputError("size must not be 4")
        if size == 5:
            raise KeyboardInterrupt("stopped after step 2")
        options.demand("accuracy", {"torch": 0.99, "jax": 0.5}, 0.9)

    assert isinstance(main, typer.Typer)

    def call(*words):
        return CliRunner().invoke(main, [*words, "--output", str(tmp_path / "a" / "b")])

    assert call("--quick", "--framework", "jax").exit_code == 0
    options, size = seen.pop()
    assert (options.steps, options.frameworks, options.seed, size) == (4, ("jax",), 0, 3)
    assert options.output.is_dir()
    assert options.name == "test_training"
    assert options.dtype == "float32"
    failed = call("--steps", "7", "--size", "6", "--resume", "--seed", "2")
    assert failed.exit_code == 1
    assert "JAX: accuracy 50.00% (target 90%)" in failed.output
    options, size = seen.pop()
    assert (options.steps, options.frameworks, options.seed, options.resume, size) == (
        7,
        FRAMEWORKS,
        2,
        True,
        6,
    )
    assert options.dtype == "float64"
    assert seen_by_jax == [None, "1"]
    assert "JAX_ENABLE_X64" not in os.environ
    refused = call("--size", "4")
    assert refused.exit_code == 2
    assert "test_training: size must not be 4" in refused.output
    assert call("--size", "5").exit_code == 130
    assert call("--framework", "keras").exit_code == 2
    (tmp_path / "file").write_text("")
    in_the_way = CliRunner().invoke(main, ["--output", str(tmp_path / "file")])
    assert in_the_way.exit_code == 2
    assert "cannot be made" in in_the_way.output
