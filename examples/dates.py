"""Dates as people write them, in many languages and forms (CLDR, by way of Babel), to learn to translate from.

No two days share a text: 4/5/2001 is another day in another country, so nothing is written with strokes, and of what
is left the order is told by dots, words or the place of the year.
"""

import re
import unicodedata
from collections.abc import Callable
from datetime import date
from functools import cache

import numpy as np
from babel import Locale
from babel.dates import format_date

from attention_bridge.errors import InputError

# fmt: off
LOCALES = (
    "ar", "cs", "da", "de", "el", "en", "en_GB", "es", "fi", "fr", "he", "hi", "hu", "hy", "id", "it", "ja", "ka",
    "ko", "lt", "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
)
# fmt: on
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
HELD_OUT = 0.1  # of all days
FORMS, SKELETONS = ("full", "long", "medium"), ("yMMMEd", "yMMMMd")
CASES: tuple[Callable[[str], str], ...] = (str, str, str.lower, str.upper)
LENGTH = 40  # characters of the longest text that is read
PAD, START, STOP = 0, 1, 2
SIGNS = "-0123456789"  # that an ISO date is written in
WRITTEN = len("YYYY-MM-DD") + 1  # tokens of an ISO date, STOP among them


def plain(text: str) -> str:
    """A text without invisible marks, in composed characters, with a plain blank wherever there is a space."""
    text = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return " ".join(text.split())


@cache
def patterns(locale: str) -> tuple[str, ...]:
    """How dates are written in a locale: with and without the weekday, in words and in digits; each once."""
    known = Locale.parse(locale)
    found = [known.date_formats[form] for form in FORMS]
    found += [known.datetime_skeletons[skeleton] for skeleton in SKELETONS]
    return tuple(dict.fromkeys(each.pattern for each in found if "/" not in each.pattern))


def forms(day: date, locale: str) -> list[str]:
    """All that a day can be written as in a locale, before it is varied."""
    return [plain(format_date(day, pattern, locale=locale)) for pattern in patterns(locale)]


def vary(text: str, case: int, with_commas: bool) -> str:
    """The same text in another case, with or without its commas."""
    return plain(CASES[case](text if with_commas else re.sub("[,،]", "", text)))


def write(day: date, locale: str, rng: np.random.Generator) -> str:
    """A day as someone might write it."""
    pattern = patterns(locale)[rng.integers(len(patterns(locale)))]
    text = format_date(day, pattern, locale=locale)
    return vary(text, int(rng.integers(len(CASES))), bool(rng.random() < 0.7))


def days(seed: int) -> tuple[list[date], list[date]]:
    """Days to learn from, and days that are held out: none is in both."""
    numbers = np.random.default_rng(seed).permutation(np.arange(FIRST.toordinal(), LAST.toordinal() + 1))
    all_days = [date.fromordinal(int(number)) for number in numbers]
    held_out = int(HELD_OUT * len(all_days))
    return all_days[held_out:], all_days[:held_out]


@cache
def characters() -> str:
    """What texts are written in, each character once: the first week of each month holds all names."""
    texts = {form for month in range(1, 13) for day in range(1, 8) for locale in LOCALES
             for form in forms(date(2001, month, day), locale)}  # fmt: skip
    varied = {vary(text, case, True) for text in texts for case in range(len(CASES))}
    return "".join(sorted(set("0123456789").union(*varied)))


def tokens(text: str) -> np.ndarray:
    """A text as numbers `(LENGTH)`, PAD behind it.

    Raises:
        InputError: it is empty or too long, or there is a character in it that no date is written in.
    """
    known = characters()
    if not 0 < len(text) <= LENGTH:
        raise InputError(f"a date must have from 1 to {LENGTH} characters, got {len(text)}: {text!r}")
    for c in text:
        if c not in known:
            name = unicodedata.name(c, "without a name")
            raise InputError(
                f"a date must be written as those to learn from, but {text!r} has {c!r} ({name})"
            )
    read = np.zeros(LENGTH, np.int32)
    read[: len(text)] = [known.index(c) + 1 for c in text]
    return read


def iso(day: date) -> np.ndarray:
    """A day as the numbers that are to be written, `(WRITTEN)`, STOP at the end."""
    return np.array([SIGNS.index(c) + 3 for c in day.isoformat()] + [STOP], np.int32)


def text_of(written: np.ndarray, other: str = "") -> str:
    """The signs that were written, with `other` for START, STOP and PAD."""
    return "".join(SIGNS[number - 3] if number >= 3 else other for number in written)
