"""Proof of all families: every odd configuration in both frameworks, and random draws of configuration fields.

`python -m parity_tests.helpers.prove_families` writes the rows of docs/families.md one by one, each with its date, and
ends with 1 if something is wrong; arguments are names of families, `--draws N`, and `--print` to print rows instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers

from attention_bridge.errors import CheckpointError, ConversionError
from attention_bridge.pages.markdown import table
from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers import heads
from parity_tests.helpers.families import CASES
from parity_tests.helpers.family_draws import drawn, groups
from parity_tests.helpers.family_proof import ARRAYS, float64
from parity_tests.helpers.family_quantised import quantised
from parity_tests.helpers.loading_page import ROPES, rope_cell, rotary
from parity_tests.helpers.text_proof import proof

SEED = 20
ATTEMPTS = 12  # draws for each counted one; transformers itself fails on many
PAGE = Path(__file__).parents[2] / "docs" / "families.md"
COLUMNS = (
    "family",
    "classes with the same outputs",
    "scalings of rotary positions",
    "quantised",
    "configurations",
    "draws: equal + refused",
    "wrong",
    "proven on",
)
INTRODUCTION = """# Proofs of each family

`make prove-families` loads tiny random models of transformers into both mirrors and compares them with transformers in
float64. Of each odd configuration it compares, in float32, the outputs, the hidden states of every layer, the attention
maps, padding on either side and cached generation, where the model has them; then the outputs in bfloat16, and the
gradients. *Quantised* lists the methods with which the family's linear layers were read. Then it changes fields of the
first configuration at random: each of these draws has the outputs of transformers, or is refused by the field's name.

[loading.md](loading.md) says how each class of transformers loads, and which tensors are kept for saving."""


@dataclass
class Draws:
    """The result of random draws of a family.

    Attributes:
        equal: number of draws with the outputs of transformers.
        refused: number of draws that are refused by name.
        failed: number of draws that transformers itself cannot compute.
        wrong: changed fields and the fault.
    """

    equal: int = 0
    refused: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)

    def counts(self) -> str:
        """The numbers as text."""
        return f"{self.equal} equal, {self.refused} refused, {len(self.wrong)} wrong, {self.failed} without a reference"


def draws(name: str, count: int) -> Draws:
    """Draw configurations of a case until `count` of them could be computed by transformers."""
    rng, found = np.random.default_rng(SEED), Draws()
    for _ in range(ATTEMPTS * count):
        if found.equal + found.refused + len(found.wrong) >= count:
            break
        changed = drawn(CASES[name], rng)
        if changed:
            _draw(CASES[name], changed, found)
    return found


def _draw(case: Any, changed: dict[str, Any], found: Draws) -> None:
    with tempfile.TemporaryDirectory() as place:
        try:
            made = proof(replace(case, fields={**case.fields, **changed}), Path(place))
            with torch.no_grad():
                expected = float64(made.theirs(made.built))
            if not expected or not all(
                np.isfinite(x).all() and np.abs(x).max() > 0 for x in expected.values()
            ):
                raise ValueError("the outputs are not finite")
        except Exception:  # any error of transformers, which does not compute this configuration
            found.failed += 1
            return
        try:
            model = load_pretrained(Path(place), "torch")
            given = float64(made.ours(model, ARRAYS["torch"]))
            worst = max(made.excess(name, given[name], x) for name, x in expected.items())
        except (CheckpointError, ValueError, NotImplementedError) as error:
            if isinstance(error, ConversionError):  # the model that was read does not fit the tensors
                found.wrong.append(f"{changed}: {error}")
            else:
                found.refused += 1  # by name, when it is read or at the call
            return
        except Exception as error:  # anything else than a refusal by name is a fault
            found.wrong.append(f"{changed}: {type(error).__name__}: {error}")
            return
        if worst <= 1.0:
            found.equal += 1
        else:
            found.wrong.append(f"{changed}: {worst:.3g} times the bound")


def proved(names: tuple[str, ...]) -> Iterator[str]:
    """The faults of a family's cases in either framework."""
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            made = proof(CASES[name], Path(place))
            for framework in ARRAYS:
                try:
                    for check in (made.deviations, made.in_bfloat16, made.gradients):
                        for each in check(framework):
                            if not each.found <= each.allowed:
                                yield f"{name}, {framework}: {each}"
                except Exception as error:  # a fault like any other; the next case is proved all the same
                    yield f"{name}, {framework}: {type(error).__name__}: {error}"


def row(family: str, names: tuple[str, ...], count: int) -> tuple[tuple[str, ...], list[str]]:
    """A family's row of the page, and its faults."""
    wrong, found = [*proved(names)], draws(names[0], count)
    quantisations, faults = quantised(names[0])
    wrong += [*(f"{family}: {each}" for each in (*found.wrong, *faults))]
    cells = (
        family,
        ", ".join(heads_of(names[0])),
        ", ".join(scalings(family)) or "-",
        ", ".join(quantisations) or "-",
        str(len(names)),
        f"{found.equal} + {found.refused}",
        str(len(wrong)),
        date.today().isoformat(),
    )
    return cells, wrong


def heads_of(name: str) -> list[str]:
    """The classes of transformers with the configuration of a case whose outputs a mirror's model has."""
    config = CASES[name].config
    classes = (each for each, written in heads.WRITTEN.items() if written.kind.config_class is config)
    return sorted(f"`{each}`" for each in classes if each not in heads.WITHOUT_HEAD)


def scalings(family: str) -> list[str]:
    """The scalings of rotary positions with which the family has the logits of transformers."""
    first = rotary()
    return [kind for kind in ROPES if family in first and rope_cell(first[family], kind) == "yes"]


def write(cells: tuple[str, ...]) -> None:
    """Put a row into the page, in place of the family's row of before."""
    rows = {each[0]: each for each in written()} | {cells[0]: cells}
    order = {family: number for number, family in enumerate(sorted(groups()))}
    kept = sorted((each for each in rows.values() if each[0] in order), key=lambda each: order[each[0]])
    absent = [family for family in order if family not in rows]
    left = f"Not run as a whole yet: {', '.join(absent)}." if absent else "Every family was run."
    versions = f"transformers {transformers.__version__}, PyTorch {torch.__version__}, JAX {jax.__version__}"
    temporary = PAGE.with_suffix(".new")
    newest = f"The newest row: {versions}, seed {SEED}."
    temporary.write_text("\n\n".join([INTRODUCTION, table(COLUMNS, kept), left, newest]) + "\n")
    temporary.replace(PAGE)


def written() -> list[tuple[str, ...]]:
    """The rows of the page."""
    if not PAGE.exists():
        return []
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in lines[2:]]


def main() -> int:
    """Prove all families, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", choices=[*groups(), []], metavar="family")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--print", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # tiny models; several runs share the cores
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    faults: list[str] = []
    for family, names in groups().items():
        if given.families and family not in given.families:
            continue
        cells, wrong = row(family, names, given.draws)
        if given.print:
            print("|", " | ".join(cells), "|", flush=True)
        else:
            write(cells)
        print(*wrong, sep="\n", file=sys.stderr, flush=True)
        faults += wrong
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
