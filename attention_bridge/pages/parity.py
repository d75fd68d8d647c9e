"""The Markdown page of the proofs: errors of every mechanism, dtype and mask, forward and backward, and platforms."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jax

from attention_bridge.accelerators import compilation as compiling
from attention_bridge.catalogue import DTYPES, select
from attention_bridge.pages.markdown import table
from attention_bridge.pages.tables import HEADINGS, verdict_cells
from attention_bridge.parity import instances
from attention_bridge.parity.proof import Verdict

CHIP = "v5e"
CASES = (*instances.MASKS, "dropout")

PAGE = """# Parity

Printed by `attention-bridge parity --all --markdown` with {versions}.

{platforms}

Outputs and all gradients are compiled and exported in float32 with `"highest"` precision; no program has float64 or a
host callback. The tests also run the TPU's attention kernel in the interpreter and compare it with the definition.

`torch` and `jax`: largest error of the outputs against a float64 oracle in plain numpy, relative to the largest
output, over every kind of mask and with dropout; `diff`: largest difference between the two frameworks; `grad`: largest
error of either framework's gradients, of every input and parameter, against PyTorch's in float64, which agree with the
oracle's along random directions to 1e-12. Each `bound` follows from the dtype: 4 u sqrt(n) in float32,
with u the unit roundoff and n the number of terms summed (3 n for gradients); 1e-12 in float64; in bfloat16 four times
the error of PyTorch's own operations on the same inputs or, where PyTorch has none, of the module in float64 with every
result rounded to bfloat16, and at most 0.1 for outputs and 0.2 for gradients.
`same`: share of the output values that, rounded to float32, have the same bits in both frameworks, rounded down.
Of {elements:,} values computed in float64, {same:,} round to the same float32 in both frameworks; of the other
{different:,}, {zeros:,} differ only in the sign of a zero, which depends on the order of a sum.

{table}

## Under each mask

The largest error of the outputs and of the gradients, in either framework, under each kind of mask that a mechanism
takes.

{masks}"""


def verdict_page(verdicts: Sequence[Verdict]) -> str:
    """Make the page; this compiles programs for absent chips, which takes about a second per mechanism."""
    double = [verdict for verdict in verdicts if verdict.dtype == "float64"]
    elements, same, zeros = (
        sum(getattr(verdict, of) for verdict in double) for of in ("elements", "same_bits", "other_zeros")
    )
    of_dtypes = {dtype: [v for v in verdicts if v.dtype == dtype] for dtype in DTYPES}
    return PAGE.format(
        versions=", ".join(f"{package} {version(package)}" for package in ("torch", "jax", "flax")),
        platforms=table(("platform", "how", "mechanisms"), _platforms(verdicts)),
        elements=elements,
        same=same,
        different=elements - same,
        zeros=zeros,
        table=table(HEADINGS, [verdict_cells(verdict) for verdict in verdicts]),
        masks="\n\n".join(f"### {dtype}\n\n{_masks(found)}" for dtype, found in of_dtypes.items() if found),
    )


def _masks(verdicts: Sequence[Verdict]) -> str:
    found = [case for case in CASES if any(case in verdict.by_case for verdict in verdicts)]
    rows = [
        (v.name, *("{:.0e}, {:.0e}".format(*v.by_case[case]) if case in v.by_case else "" for case in found))
        for v in verdicts
    ]
    return table(("mechanism", *found), rows)


def _platforms(verdicts: Sequence[Verdict]) -> list[tuple[str, str, str]]:
    """Rows for the platforms that ran the mechanisms, and for others, for which they are compiled or exported."""
    names = list(dict.fromkeys(verdict.name for verdict in verdicts))
    rows = []
    for platform in dict.fromkeys(verdict.platform for verdict in verdicts):
        failed = {v.name for v in verdicts if v.platform == platform and not v.ok}
        kind = jax.devices(platform)[0].device_kind
        where = platform if kind == platform else f"{platform} ({kind})"
        rows.append((where, "run, PyTorch against JAX", _passed(names, failed)))
    with jax.default_matmul_precision("highest"):
        programs = [compiling.program_of(mechanism) for mechanism in select(names)]
        if not any(verdict.platform == "gpu" for verdict in verdicts):
            held = {p.name for p in programs if compiling.foreign(compiling.export_for(p))}
            rows.append(("gpu (NVIDIA)", "exported as StableHLO, not run", _passed(names, held)))
        if not any(verdict.platform == "tpu" for verdict in verdicts):
            if find_spec("libtpu") is None:
                rows.append(("tpu", "not compiled: libtpu is not installed", ""))
            else:
                held = {p.name for p in programs if compiling.compile_for(p, CHIP).foreign}
                rows.append((f"tpu ({CHIP})", "compiled by libtpu, not run", _passed(names, held)))
    return rows


def _passed(names: Sequence[str], failed: set[str]) -> str:
    passed = f"{len(names) - len(failed)} of {len(names)}"
    return f"{passed}; not {', '.join(sorted(failed))}" if failed else passed


if __name__ == "__main__":
    print(verdict_page([Verdict(**row) for row in json.loads(Path(sys.argv[1]).read_text())]))
