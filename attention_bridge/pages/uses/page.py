"""The Markdown page `docs/uses.md`: a table of each mechanism with each framework tool."""

import importlib
import importlib.util
from collections.abc import Callable, Iterable

from attention_bridge.catalogue import Mechanism
from attention_bridge.pages.markdown import table

FRAMEWORKS = {"PyTorch": "torch_uses", "JAX": "jax_uses"}
YES = "yes"
HEAD = """# Uses

The tools of each framework, tried on each mechanism: `yes` means that the tool worked and gave the same values as the
plain call, also at sizes other than the ones it was compiled or exported for. A number refers to the reason in the list
below the table. Made by `python -m attention_bridge.pages.uses > docs/uses.md`.
"""


def uses_of(framework: str) -> dict[str, Callable[[Mechanism], str]]:
    """The trials of a framework by name; each takes a mechanism and returns "yes" or a reason in one sentence."""
    name = f"attention_bridge.pages.uses.{FRAMEWORKS[framework]}"
    if importlib.util.find_spec(name) is None:
        return {}
    return dict(importlib.import_module(name).USES)


def page(mechanisms: Iterable[Mechanism]) -> str:
    """Make the whole page in Markdown."""
    mechanisms = list(mechanisms)
    return HEAD + "".join(section(framework, mechanisms) for framework in FRAMEWORKS)


def section(framework: str, mechanisms: list[Mechanism]) -> str:
    """Make the table of one framework and the numbered list of reasons."""
    uses = uses_of(framework)
    if not uses:
        return ""
    reasons: list[str] = []
    rows = []
    for mechanism in mechanisms:
        row = [mechanism.name]
        for use in uses.values():
            said = answer(use, mechanism)
            if said != YES and said not in reasons:
                reasons.append(said)
            row.append(said if said == YES else str(1 + reasons.index(said)))
        rows.append(row)
    total = [f"{sum(row[1 + n] == YES for row in rows)} of {len(rows)}" for n in range(len(uses))]
    why = "".join(f"{number}. {reason}\n" for number, reason in enumerate(reasons, 1))
    described = "".join(
        f"- **{name}**: {(use.__doc__ or '').strip().splitlines()[0]}\n" for name, use in uses.items()
    )
    head = f"\n## {framework}\n\n{described}\n"
    return head + table(["mechanism", *uses], [*rows, ["**yes**", *total]]) + (f"\n{why}" if why else "")


def answer(use: Callable[[Mechanism], str], mechanism: Mechanism) -> str:
    """Run one trial on a mechanism and return its answer, or its error, in one line."""
    try:
        return use(mechanism).replace("|", "\\|")
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        return f"{type(error).__name__}: {first[:200]}".replace("|", "\\|")
