"""The page of uses: what each framework's tools make of each mechanism, as a table."""

import importlib
import importlib.util
from collections.abc import Callable, Iterable

from attention_bridge.catalogue import Mechanism
from attention_bridge.pages.markdown import table

FRAMEWORKS = {"PyTorch": "torch_uses", "JAX": "jax_uses"}
YES = "yes"
HEAD = """# Uses

What can be done with each mechanism by the tools of its framework. Every entry was tried: `yes` means that it worked
and gave the numbers of the plain call, at sizes other than those that it was made for too. A number refers to the
list below the table, which says why not. Made by `python -m attention_bridge.pages.uses > docs/uses.md`.
"""


def uses_of(framework: str) -> dict[str, Callable[[Mechanism], str]]:
    """The uses of a framework by name, each a function from a mechanism to "yes" or to one sentence why not."""
    name = f"attention_bridge.pages.uses.{FRAMEWORKS[framework]}"
    if importlib.util.find_spec(name) is None:
        return {}
    return dict(importlib.import_module(name).USES)


def page(mechanisms: Iterable[Mechanism]) -> str:
    """The whole page, in Markdown."""
    mechanisms = list(mechanisms)
    return HEAD + "".join(section(framework, mechanisms) for framework in FRAMEWORKS)


def section(framework: str, mechanisms: list[Mechanism]) -> str:
    """The table of one framework, and the reasons that its numbers refer to."""
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
    """What a use says of a mechanism, in one line; its error where it raises one."""
    try:
        return use(mechanism).replace("|", "\\|")
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        return f"{type(error).__name__}: {first[:200]}".replace("|", "\\|")
