"""The figures of one comparison as a part of a certificate: inputs, bound, largest errors, hashes of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attention_bridge.parity.certificates import hashes
from attention_bridge.parity.comparison import Measured
from attention_bridge.parity.difference import Difference
from attention_bridge.parity.measure import UNIT_ROUNDOFF, ulps
from attention_bridge.parity.run import Run, is_float

KINDS = ("output", "attention map", "gradient")
SIDES = {"torch": "torch_err", "jax": "jax_err", "torch against jax": "diff"}


def figures(
    name: str, measured: Measured, inputs: Mapping[str, Any], seeds: Mapping[str, int | None]
) -> dict[str, Any]:
    """The figures of one comparison.

    Args:
        name: name of the comparison, with the dtype and the kind of mask.
        measured: the runs.
        inputs: inputs of the runs; only arrays have a hash.
        seeds: seeds of the random numbers by their use; None for numbers that were given.
    """
    found, bound = measured.differences(), measured.bound
    return {
        "name": name,
        "dtype": bound.dtype,
        "seeds": dict(seeds),
        "inputs": {key: hashes.of_array(x) for key, x in inputs.items() if isinstance(x, np.ndarray)},
        "bound": {
            **bound.tolerances(),
            "derivation": bound.derivation,
            "unit_roundoff": UNIT_ROUNDOFF[bound.dtype],
            "terms": bound.terms,
            "reference_errors": None if bound.reference_errors is None else dict(bound.reference_errors),
        },
        "errors": {kind: _largest(kind, found, bound.dtype) for kind in KINDS},
        "results": {
            "torch": _of_run(measured.torch_run),
            "jax": _of_run(measured.jax_run),
            "reference": _of_run(measured.reference),
        },
        "top1": top1(measured.torch_run.outputs, measured.jax_run.outputs),
        "ok": all(each.ok for each in found),
    }


def is_attention_map(name: str) -> bool:
    """Whether an output of this name, such as `weights.0` or `cross_weights`, has attention weights."""
    return any(part.endswith(("weights", "attentions")) for part in name.split("."))


def top1(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, int] | None:
    """Top-1 agreement: the number of positions, and of those where both frameworks have the same largest entry.

    It is measured on outputs called `output` or `logits` with at least three axes, which are the logits of a language
    model and the features of other modules; None if there are none.
    """
    names = [
        name
        for name, x in ours.items()
        if name.rpartition(".")[2] in ("output", "logits") and x.ndim > 2 and is_float(x) and x.size
    ]
    if not names:
        return None
    equal = [np.argmax(ours[name], -1) == np.argmax(theirs[name], -1) for name in names]
    return {"positions": sum(x.size for x in equal), "equal": int(sum(x.sum() for x in equal))}


def _kind(difference: Difference) -> str:
    return KINDS[1] if difference.kind == "output" and is_attention_map(difference.name) else difference.kind


def _largest(kind: str, found: Sequence[Difference], dtype: str) -> dict[str, Any] | None:
    """The largest error of each framework, and of one against the other; None if there is no such tensor."""
    of_kind = [each for each in found if _kind(each) == kind]
    if not of_kind:
        return None
    largest = {}
    for side, field in SIDES.items():
        worst = max(of_kind, key=lambda each: float(getattr(each, field)))
        err = float(getattr(worst, field))
        largest[side] = {"relative": err, "ulp": float(ulps(err, worst.scale, dtype)), "tensor": worst.name}
    return {
        **largest,
        "tensors": len(of_kind),
        "elements": sum(each.elements for each in of_kind),
        "same_bits": sum(each.same_bits for each in of_kind),
        "other_zeros": sum(each.other_zeros for each in of_kind),
    }


def _of_run(run: Run) -> str:
    """The SHA-256 of all outputs and gradients."""
    outputs = {f"output {name}": x for name, x in run.outputs.items()}
    return hashes.of_arrays({**outputs, **{f"gradient {name}": x for name, x in run.gradients.items()}})
