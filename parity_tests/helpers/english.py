"""Phrases that the project's prose avoids, with the words to use instead: `python -m parity_tests.helpers.english`.

`make lint` fails on a phrase of `BANNED` in a comment, docstring, message or Markdown page. The words to use
are the words of textbooks and of the frameworks' own documentation.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHERE = (
    "torch_attention",
    "jax_attention",
    "attention_bridge",
    "parity_tests",
    "benchmarks",
    "examples",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
)

PREPOSITIONS = ("at", "to", "that", "in", "of", "for", "by", "as", "and", "or", "is", "with", "from")

# A pattern, and the words to use instead.
BANNED = {
    r"\bwhat\b(?!:)(?![^.:;]*\?)": "the noun itself, 'which' or 'that'; 'what' is for questions",
    r"\bwhatever\b": "'any', 'all', or the noun",
    r"\bwhom\b": "'which keys', 'which queries'",
    r"\bnobody\b": "'no caller', 'no key', 'none'",
    r"\b(that|those) of\b": "the noun again",
    r"\b(stands?|stood|standing)\b": "'is', 'are', or the field's verb",
    r"\breads? on\b": "'incremental decoding', 'decode step'",
    r"\b(goes|go|going|went) (on|round)\b": "'continue', or the field's word",
    r"\bremember(s|ed|ing)?\b": "'KV cache', 'cached', 'recurrent state'",
    r"\bthe draws?\b": "'sampled mask', 'random mask', 'random numbers'",
    r"\bkeep-masks?\b": "'dropout mask'",
    r"\b(is|are) told\b": "'is given', 'is annotated'",
    r"\bshared out\b": "'sharded'",
    r"\bwhere (it|they|each) stands?\b": "'position'",
    r"\b(by|their|its) places?\b": "'position'",
    rf"\bone (?!(?:{'|'.join(PREPOSITIONS)}) )[\w-]+ an? (?!time\b)[a-z]\w+\b": "'one ... per ...'",
    r"\btheirs\b(?!:| =)": "'the source', 'the other implementation'",
    r"\bours\b(?!:)": "'this package'",
    r"\bmend(s|ed|ing)?\b": "'fix'",
    r"\bsees? nothing\b": "'fully masked row'",
    r"\bwhich see\b": "'see ...'",
    r"\bjudges?\b": "'reference', 'ground truth'",
    r"\bsa(ys?|id) of\b": "'describes', 'described'",
    r"\bof no meaning\b": "'unused', 'undefined'",
    r"(?<!hugging face )\b(the|a|of) hub\b": "'canonical layout', or 'the Hugging Face Hub'",
}
PATTERNS = {re.compile(pattern, re.IGNORECASE): instead for pattern, instead in BANNED.items()}
CODE = re.compile(r"`[^`]*`")
FIELD = re.compile(r"\{[^{}]*\}")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file's prose: comments and strings of Python, Markdown outside of code."""
    text = path.read_text()
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
                is_formatted = token.string[:2].lower() in ("f'", 'f"', "rf", "fr")
                for i, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + i, FIELD.sub("", line) if is_formatted else line
        return
    is_code = False
    for i, line in enumerate(text.splitlines(), 1):
        is_code ^= line.lstrip().startswith("```")
        if not is_code:
            yield i, line


def phrases(path: Path) -> Iterator[tuple[int, str, str]]:
    """The line, the words and the advice for each banned phrase of a file."""
    for number, line in prose(path):
        for pattern, instead in PATTERNS.items():
            for match in pattern.finditer(CODE.sub("`code`", line)):
                yield number, match[0], instead


def files() -> Iterator[Path]:
    """All files with prose."""
    for name in WHERE:
        path = ROOT / name
        if path.is_dir():
            yield from sorted(
                x for x in path.rglob("*") if x.suffix in (".py", ".md") and x != Path(__file__)
            )
        elif path.exists():
            yield path


def main() -> int:
    """Print each banned phrase; the exit status is 1 if there is one."""
    found = [(path, *phrase) for path in files() for phrase in phrases(path)]
    for path, number, words, instead in found:
        print(f"{path.relative_to(ROOT)}:{number}: avoid {words!r}; write {instead}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
