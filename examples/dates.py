"""Training data: dates in the formats of many languages (CLDR, through Babel), and their ISO forms.

No text means two different days: 4/5/2001 depends on the country, so formats with slashes are left out. In the other
formats dots, words or the position of the year show the order.
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
HELD_OUT = 0.1  # fraction of all days
FORMS, SKELETONS = ("full", "long", "medium"), ("yMMMEd", "yMMMMd")
CASES: tuple[Callable[[str], str], ...] = (str, str, str.lower, str.upper)
LENGTH = 40  # characters of the longest source text
PAD, START, STOP = 0, 1, 2
SIGNS = "-0123456789"  # characters of ISO dates
WRITTEN = len("YYYY-MM-DD") + 1  # tokens of an ISO date, including STOP


def plain(text: str) -> str:
    """Normalise a text: no invisible characters, composed characters, and single plain spaces."""
    text = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return " ".join(text.split())


@cache
def patterns(locale: str) -> tuple[str, ...]:
    """The distinct date formats of a locale: with and without the weekday, in words and in digits."""
    known = Locale.parse(locale)
    found = [known.date_formats[form] for form in FORMS]
    found += [known.datetime_skeletons[skeleton] for skeleton in SKELETONS]
    return tuple(dict.fromkeys(each.pattern for each in found if "/" not in each.pattern))


def forms(day: date, locale: str) -> list[str]:
    """All texts for a day in a locale, before `vary`."""
    return [plain(format_date(day, pattern, locale=locale)) for pattern in patterns(locale)]


def vary(text: str, case: int, with_commas: bool) -> str:
    """Change the case of a text, and remove its commas if asked."""
    return plain(CASES[case](text if with_commas else re.sub("[,،]", "", text)))


def write(day: date, locale: str, rng: np.random.Generator) -> str:
    """A random text for a day in a locale."""
    pattern = patterns(locale)[rng.integers(len(patterns(locale)))]
    text = format_date(day, pattern, locale=locale)
    return vary(text, int(rng.integers(len(CASES))), bool(rng.random() < 0.7))


def days(seed: int) -> tuple[list[date], list[date]]:
    """Split all days at random into training days and held-out days."""
    numbers = np.random.default_rng(seed).permutation(np.arange(FIRST.toordinal(), LAST.toordinal() + 1))
    all_days = [date.fromordinal(int(number)) for number in numbers]
    held_out = int(HELD_OUT * len(all_days))
    return all_days[held_out:], all_days[:held_out]


@cache
def characters() -> str:
    """All distinct characters of the texts; the first week of each month contains all names of days and months."""
    texts = {form for month in range(1, 13) for day in range(1, 8) for locale in LOCALES
             for form in forms(date(2001, month, day), locale)}  # fmt: skip
    varied = {vary(text, case, True) for text in texts for case in range(len(CASES))}
    return "".join(sorted(set("0123456789").union(*varied)))


def tokens(text: str) -> np.ndarray:
    """Tokens of a text, `(LENGTH,)`, padded at the end.

    Raises:
        InputError: the text is empty or too long, or contains a character that no training text has.
    """
    known = characters()
    if not 0 < len(text) <= LENGTH:
        raise InputError(f"a date must have from 1 to {LENGTH} characters, got {len(text)}: {text!r}")
    for c in text:
        if c not in known:
            name = unicodedata.name(c, "without a name")
            raise InputError(
                f"a date must have only characters of the training data, but {text!r} has {c!r} ({name})"
            )
    read = np.zeros(LENGTH, np.int32)
    read[: len(text)] = [known.index(c) + 1 for c in text]
    return read


def iso(day: date) -> np.ndarray:
    """Tokens of the ISO form of a day, `(WRITTEN,)`, with STOP at the end."""
    return np.array([SIGNS.index(c) + 3 for c in day.isoformat()] + [STOP], np.int32)


def text_of(written: np.ndarray, other: str = "") -> str:
    """The text of target tokens, with `other` for START, STOP and PAD."""
    return "".join(SIGNS[number - 3] if number >= 3 else other for number in written)
