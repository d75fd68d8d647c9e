"""The date-translation example: each text means exactly one day, and test days never occur in training."""

import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def beside_the_examples() -> Iterator[None]:
    """Make the examples importable by each other, as in scripts."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.fixture
def dates() -> Any:
    import dates

    return dates


def the_year(*months: int) -> list[date]:
    """All days of a leap year, or of some of its months."""
    days = [date(2008, 1, 1) + timedelta(number) for number in range(366)]
    return [day for day in days if not months or day.month in months]


def clashes(texts: Iterator[tuple[str, date]]) -> list[str]:
    """Texts that mean two different days."""
    meaning: dict[str, date] = {}
    return [text for text, day in texts if meaning.setdefault(text, day) != day]


def test_no_two_days_share_a_text(dates: Any) -> None:
    """Texts contain the full year, so one year suffices: only day and month could be confused."""

    def texts() -> Iterator[tuple[str, date]]:
        for day in the_year():
            for locale in dates.LOCALES:
                for text in dates.forms(day, locale):
                    assert "2008" in text
                    yield text.casefold().replace(",", ""), day  # the part that `vary` never changes

    assert not clashes(texts())


def test_days_with_slashes_would_share_texts(dates: Any) -> None:
    """A negative control: the short date formats of two countries."""
    from babel.dates import format_date

    pairs = ((format_date(day, "short", locale=x), day) for day in the_year(4, 5) for x in ("en", "es"))
    assert "5/4/08" in clashes(pairs)


def test_every_text_fits_the_vocabulary_and_the_length(dates: Any) -> None:
    known = set(dates.characters())
    for day in the_year()[::13]:
        for locale in dates.LOCALES:
            for form in dates.forms(day, locale):
                for case in range(len(dates.CASES)):
                    for with_commas in (True, False):
                        text = dates.vary(form, case, with_commas)
                        assert set(text) <= known
                        assert 0 < len(text) <= dates.LENGTH


def test_test_days_are_never_in_training(dates: Any) -> None:
    learnt, held_out = dates.days(3)
    assert not set(learnt) & set(held_out)
    assert sorted(learnt + held_out) == [date.fromordinal(n) for n in range(693596, 766645)]
    assert min(learnt + held_out) == dates.FIRST
    assert max(learnt + held_out) == dates.LAST
    assert {day.isoformat()[:7] for day in learnt} >= {day.isoformat()[:7] for day in held_out}
    assert dates.days(3) == (learnt, held_out)
    assert set(dates.days(4)[1]) != set(held_out)


def test_test_texts_are_of_held_out_days_in_all_locales(dates: Any) -> None:
    import translate_dates

    _, held_out = dates.days(0)
    source, target = translate_dates.texts_of(held_out, 0)
    assert source.shape == (translate_dates.TESTED * len(dates.LOCALES), dates.LENGTH)
    written = [dates.text_of(row) for row in target]
    assert len(set(written)) == len(written)
    assert set(written) <= {day.isoformat() for day in held_out}


def test_tokens_keep_every_character(dates: Any, rng: np.random.Generator) -> None:
    for locale in dates.LOCALES:
        text = dates.write(date(1987, 9, 23), locale, rng)
        assert "".join(dates.characters()[n - 1] for n in dates.tokens(text) if n != dates.PAD) == text
    assert dates.text_of(dates.iso(date(1987, 9, 23))) == "1987-09-23"
    assert dates.text_of(dates.iso(date(1987, 9, 23)), "·") == "1987-09-23·"


def test_invisible_marks_and_kinds_of_spaces_make_no_difference(dates: Any) -> None:
    assert dates.plain("\u200f23\u00a0mars\u202f1987\n") == "23 mars 1987"
    assert dates.plain("Fe\u0301vrier") == "F\u00e9vrier"


@pytest.mark.parametrize(
    ("say", "words"),
    [
        ("3 ✈ 1987", ["'✈'", "AIRPLANE"]),
        ("3/10/1987", ["'/'", "SOLIDUS"]),
        ("the third of October " * 3, ["from 1 to 40 characters", "got 62"]),
        ("  ", ["from 1 to 40 characters", "got 0"]),
    ],
)
def test_unreadable_input_raises_before_training(
    say: str, words: list[str], dates: Any, tmp_path: Path
) -> None:
    import translate_dates

    result = CliRunner().invoke(translate_dates.main, ["--say", say, "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("translate_dates: ")
    for word in words:
        assert word in result.stderr
    with pytest.raises(InputError):
        dates.tokens(dates.plain(say))


@pytest.mark.slow
def test_run_stopped_in_the_first_model_continues_with_the_second(dates: Any, tmp_path: Path) -> None:
    import translate_dates

    def start(*words: str) -> str:
        given = ["--quick", "--steps", "2", "--framework", "torch", "--output", str(tmp_path), *words]
        result = CliRunner().invoke(translate_dates.main, given)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert start("--model", "transformer").count("PyTorch, step 2:") == 1
    told = start("--resume", "--say", "3 mars 2001")
    assert told.count("PyTorch, step 2:") == 1  # only of the second model
    assert told.count("translates 3 mars 2001 to ") == 2
