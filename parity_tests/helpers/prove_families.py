"""Proof of all families: every odd configuration in both frameworks, and random draws of configuration fields.

`python -m parity_tests.helpers.prove_families` prints the table of docs/families.md and ends with 1 if something is
wrong; arguments are names of families, and `--draws N`.
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

import numpy as np
import torch
import transformers

from attention_bridge.errors import CheckpointError, ConversionError
from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers.families import CASES
from parity_tests.helpers.family_draws import drawn, groups
from parity_tests.helpers.family_proof import ARRAYS, float64
from parity_tests.helpers.text_proof import proof

SEED = 20
ATTEMPTS = 12  # draws for each counted one; transformers itself fails on many


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


def main() -> int:
    """Prove all families, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    faults: list[str] = []
    print("| family | odd configurations | draws equal | draws refused by name | wrong |")
    print("|---|---|---|---|---|")
    for family, names in groups().items():
        if given.families and family not in given.families:
            continue
        wrong, drawn_ones = list(proved(names)), draws(names[0], given.draws)
        faults += [*wrong, *(f"{family}: {each}" for each in drawn_ones.wrong)]
        count = len(wrong) + len(drawn_ones.wrong)
        print(
            f"| {family} | {len(names)} | {drawn_ones.equal} | {drawn_ones.refused} | {count} |", flush=True
        )
    versions = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    print(f"\n{date.today().isoformat()}, {versions}, {given.draws} draws, seed {SEED}.")
    print(*faults, sep="\n", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
