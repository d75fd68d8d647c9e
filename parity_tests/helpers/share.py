"""Names that a run tries, chosen by the commit, so that later runs try the others."""

import hashlib
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path


def share(names: Iterable[str], of: int) -> frozenset[str]:
    """About one in `of` names; without a repository, the choice of the word `none`."""
    return frozenset(name for name in names if _number(f"{commit()} {name} of {of}") % of == 0)


def one_of(kind: str, names: Sequence[str]) -> str:
    """One of several names of a kind."""
    return names[_number(f"{commit()} {kind}") % len(names)]


@cache
def commit() -> str:
    """The commit of the repository; without one, the word `none`."""
    place = Path(__file__).parent
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=place, capture_output=True, text=True, check=False
    )
    return head.stdout.strip() or "none"


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)
