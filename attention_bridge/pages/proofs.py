"""Error figures of the last proof of every mechanism, stored for the command `show`.

attention-bridge parity --all --json > proofs.json
python -m attention_bridge.pages.proofs proofs.json > attention_bridge/data/proofs.json
python -m attention_bridge.pages.parity proofs.json > docs/parity.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

KEPT = (
    "torch_err",
    "jax_err",
    "tolerance",
    "torch_gradient_err",
    "jax_gradient_err",
    "gradient_tolerance",
)


def figures(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Extract the package versions and the largest errors of each proof.

    Args:
        rows: verdicts, as `attention-bridge parity --json` prints them.

    Returns:
        Contents of `data/proofs.json`: versions by package, and errors by mechanism and dtype.

    Raises:
        ValueError: a proof failed.
    """
    proofs: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if not row["ok"]:
            raise ValueError(f"expected proofs without a failure, got {row['name']} in {row['dtype']}")
        proofs.setdefault(row["name"], {})[row["dtype"]] = {key: float(f"{row[key]:.0e}") for key in KEPT}
    versions = {package: version(package) for package in ("torch", "jax", "flax")}
    return {"versions": versions, "proofs": proofs}


@cache
def _kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("attention_bridge").joinpath("data", "proofs.json").read_text())
    return found


def of(name: str) -> dict[str, dict[str, float]]:
    """The error figures of one mechanism by dtype; empty if it has no proof.

    Args:
        name: name of the mechanism, as `attention-bridge list` prints it.
    """
    found: dict[str, dict[str, float]] = _kept()["proofs"].get(name, {})
    return found


def lines(name: str) -> list[str]:
    """The error figures of one mechanism as lines for the terminal; empty if it has no proof.

    Args:
        name: name of the mechanism, as `attention-bridge list` prints it.
    """
    versions = ", ".join(f"{package} {number}" for package, number in _kept()["versions"].items())
    rows = [
        f"    {dtype:<9} outputs: torch {row['torch_err']:.0e}, jax {row['jax_err']:.0e}, "
        f"bound {row['tolerance']:.0e}; gradients: torch {row['torch_gradient_err']:.0e}, "
        f"jax {row['jax_gradient_err']:.0e}, bound {row['gradient_tolerance']:.0e}"
        for dtype, row in of(name).items()
    ]
    return [f"  largest errors against the float64 oracle, on CPU with {versions}:", *rows] if rows else []


if __name__ == "__main__":
    print(json.dumps(figures(json.loads(Path(sys.argv[1]).read_text())), indent=1))
