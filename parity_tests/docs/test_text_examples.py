"""Two text examples: their training data, their measures, and bad input."""

import importlib.util
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge.training import IGNORED

EXAMPLES = Path(__file__).parents[2] / "examples"


def example_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


induction, text = example_of("induction_heads"), example_of("generate_text")


@pytest.fixture
def given() -> Any:
    return induction.sequences(np.random.default_rng(3), 200)


def test_copied_letter_follows_the_first_occurrence(given: Any) -> None:
    fewest, most = induction.STRETCH
    for letters, labels in zip(given.letters.tolist(), given.labels.tolist(), strict=True):
        asked = [place for place, label in enumerate(labels) if label != IGNORED]
        assert asked == list(range(asked[0], len(labels)))  # up to the end
        assert fewest <= len(asked) + 1 <= most
        for place in asked:
            first = letters.index(letters[place])
            assert first < place
            assert letters[first + 1] == labels[place]
        assert len(set(letters[: asked[0]])) == asked[0]  # before the copy, all letters differ


def test_copy_cannot_be_found_by_its_distance(given: Any) -> None:
    place = np.arange(given.letters.shape[1])
    distances, times = np.unique((place - given.earlier)[given.labels != IGNORED], return_counts=True)
    assert len(distances) > 10
    assert times.max() / times.sum() < 0.25


def test_each_kind_of_head_is_identified_by_its_score(given: Any) -> None:
    number, length = given.letters.shape
    place = np.arange(length)
    weights = np.zeros((2, number, 3, length, length))
    weights[0, :, 1, place[1:], place[:-1]] = 1.0
    weights[1, :, 2, place] = 0.25 * np.eye(length)[np.minimum(given.earlier + 1, length - 1)].swapaxes(0, 1)
    found = induction.kinds(weights, given)
    np.testing.assert_array_equal(found["previous letter"], [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found["induction"], [[0, 0, 0], [0, 0, 0.25]])


def test_trigram_loss_equals_explicit_counting() -> None:
    rng = np.random.default_rng(5)
    learnt, held = rng.integers(0, 4, 60), rng.integers(0, 7, 40)  # some characters never occur in training

    def chance(before: tuple[int, ...], character: int) -> float:
        shorter = chance(before[1:], character) if before else 1 / 7
        length = len(before)
        ends = range(2, len(learnt))
        behind = Counter(int(learnt[i]) for i in ends if tuple(learnt[i - length : i]) == before)
        if not behind:
            return shorter
        return (behind[character] + len(behind) * shorter) / (behind.total() + len(behind))

    expected = [-math.log(chance(tuple(held[i - 2 : i].tolist()), int(held[i]))) for i in range(2, len(held))]
    assert text.loss_of_three(learnt, held, 7) == pytest.approx(np.mean(expected), rel=1e-13)


def test_repeated_paragraph_is_kept_once(tmp_path: Path) -> None:
    first, second = "one " * text.SHORTEST, "two " * 9
    file = tmp_path / "text.txt"
    file.write_text(f"{first}\n\n{second}\n\n\n\n  {first}\n\nthree", "utf-8")
    assert text.read(file) == f"{first}\n\n{second}\n\nthree"
    shipped = [" ".join(each.split()) for each in text.read(None).split("\n\n")]
    assert len(shipped) == len(set(shipped)) > 1000


REFUSED_FILES = {
    "empty": (b"", "at least 2560 characters"),
    "short": (b"A word or two.", "has 14"),
    "repeated": (b"A word or two.\n\n" * 1000, "has 14"),
    "all the same": (b"a" * 10_000, "not all the same"),
    "not in UTF-8": ("é".encode("latin-1") * 10_000, "is not, at byte 0"),
}
LONG = "a" * text.CONTEXT
REFUSED_PROMPTS = {
    "unknown": ("any ☃ here", "'☃' is not in it"),
    "empty": ("", "from 1 to 127 characters, got 0"),
    "too long": (LONG, "from 1 to 127 characters, got 128"),
}


def refused(output: Path, *words: str) -> str:
    """The message that the example prints for bad input."""
    done = CliRunner(env={"OMP_WAIT_POLICY": "passive"}).invoke(text.main, ["--output", str(output), *words])
    assert done.exit_code == 2
    assert not list(output.iterdir())
    said = done.stderr.strip()
    assert "\n" not in said
    assert said.startswith("generate_text: ")
    return said


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_text_unsuited_for_training_raises(name: str, tmp_path: Path) -> None:
    content, expected = REFUSED_FILES[name]
    file, output = tmp_path / "text.txt", tmp_path / "output"
    file.write_bytes(content)
    said = refused(output, "--text", str(file))
    assert expected in said
    assert str(file) in said


def test_unreadable_text_raises(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "output", "--text", str(tmp_path / "none.txt"))
    assert "directory" in refused(tmp_path / "output", "--text", str(tmp_path))


@pytest.mark.parametrize("name", REFUSED_PROMPTS)
def test_prompt_that_cannot_be_continued_raises(name: str, tmp_path: Path) -> None:
    prompt, expected = REFUSED_PROMPTS[name]
    assert expected in refused(tmp_path / "output", "--prompt", prompt)
