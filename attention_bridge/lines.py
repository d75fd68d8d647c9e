"""Messages that fit on a line, whatever stands in the file that they speak of."""

from __future__ import annotations

LONGEST_MESSAGE = 280  # characters; with what the command puts before it, a line has no more than 300


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A text of at most so many letters: what stands in the middle of a longer one is left out."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 3]}...{text[-end:]}"


def printable(text: str) -> str:
    """A text in which whatever cannot be printed on one line is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
