"""The verdict of a certificate, which follows from its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_bridge.parity.bound import Bound
from attention_bridge.parity.measure import UNIT_ROUNDOFF

NO_MODEL = "no model was run"


def verdict(content: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict that the other parts of a certificate support.

    Args:
        content: a certificate, with or without its verdict.
    """
    faults = [f"{run['name']}: an error exceeds its bound" for run in content["runs"] if not within(run)]
    faults += content["faults"]
    if faults:
        return {"ok": False, "sentence": f"not equal: {'; '.join(faults)}"}
    return {"ok": True, "sentence": _equal(content)}


def _equal(content: Mapping[str, Any]) -> str:
    runs = content["runs"]
    equal = f"outputs, attention maps and gradients agree within the bound in {len(runs)} comparison"
    equal += "s" if len(runs) > 1 else ""
    if content["kind"] != "conversion":
        return equal
    weights = "the way back gives every tensor of the source byte for byte"
    return f"{weights}; {equal if runs else f'{NO_MODEL}: ' + content['subject']['no_model']}"


def within(run: Mapping[str, Any]) -> bool:
    """Whether the errors of a comparison are within its bound, which may be twice as large between the frameworks."""
    bound = run["bound"]
    for kind, largest in run["errors"].items():
        if largest is None:
            continue
        most = bound["gradient" if kind == "gradient" else "output"]
        if not all(largest[side]["relative"] <= most for side in ("torch", "jax")):
            return False
        if not largest["torch against jax"]["relative"] <= 2 * most:
            return False
    return bool(run["ok"])


def contradictions(content: Mapping[str, Any]) -> list[str]:
    """The parts of a certificate that do not follow from its other parts: bounds, and the verdict."""
    found = []
    for run in content["runs"]:
        given = run["bound"]
        if given["unit_roundoff"] != UNIT_ROUNDOFF.get(run["dtype"]):
            found.append(f"the unit roundoff of {run['name']} is not {run['dtype']}'s")
            continue
        bound = Bound(run["dtype"], given["terms"], given["reference_errors"])
        if given["derivation"] != bound.derivation or any(
            given[kind] != most for kind, most in bound.tolerances().items()
        ):
            found.append(f"the bound of {run['name']} does not follow from its derivation")
        if not run["ok"] and within({**run, "ok": True}):
            found.append(f"no error of {run['name']} exceeds its bound, but it is not ok")
    if content["verdict"] != verdict(content):
        found.append("the verdict does not follow from the figures")
    return found
