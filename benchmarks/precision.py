"""Errors of every mechanism by the precision of matrix products: `python -m benchmarks.precision` prints the page."""

import argparse
from importlib.metadata import version
from typing import Any

import jax
import torch
from rich.console import Console
from rich.progress import track

from attention_bridge.accelerators.precision import PRECISIONS, emulated_products
from attention_bridge.catalogue import CATALOGUE, Mechanism
from attention_bridge.pages.markdown import table
from attention_bridge.parity import instances
from attention_bridge.parity.comparison import differences, pinned_precision
from attention_bridge.parity.proof import reference_run
from attention_bridge.parity.run import Run, is_float, on_platform, run_jax, run_torch

CASE = "batch heads query key"
NO_BOUND = {"output": 1.0, "gradient": 1.0}

PAGE = """# The precision of matrix products

Printed by `python -m benchmarks.precision` with {versions}: {how}.

Each cell has the largest error of the outputs and the largest error of the gradients, against the float64 reference and
relative to the largest reference value. Each mechanism runs as its small instance of the catalogue in float32, with a
random mask if it takes one. *Only the factors of matrix products and convolutions are rounded*; sums, softmax and all
other operations are float32. All parity tests run in float32, because
`attention_bridge.parity.comparison.pinned_precision` sets the highest precision.

| | PyTorch: `set_float32_matmul_precision` | JAX: `jax_default_matmul_precision` | default of |
| --- | --- | --- | --- |
| float32 | `"highest"` | `"highest"` | PyTorch; both on CPU |
| bfloat16 in three passes | | `"high"` on TPU | |
| TF32 | `"high"` on GPU | `"high"` on GPU | JAX on GPUs that have it |
| bfloat16 in one pass | `"medium"`, where it is implemented | `"default"` on TPU | JAX on TPU |

{table}"""


def measured(mechanism: Mechanism, run: Run) -> tuple[float, float]:
    """The largest errors of a run's outputs and gradients."""
    found = differences(run, run, reference_run(mechanism, case_of(mechanism), None), NO_BOUND)
    output, gradient = (max(d.torch_err for d in found if d.kind == kind) for kind in NO_BOUND)
    return output, gradient


def case_of(mechanism: Mechanism) -> str:
    """The case of a mechanism: a random mask if it takes one, else none."""
    return CASE if CASE in instances.cases(mechanism, "float32") else "none"


def given_to(mechanism: Mechanism) -> dict[str, Any]:
    """The inputs of the mechanism, in float32."""
    given = instances.inputs(mechanism, case_of(mechanism))
    return {name: x.astype("float32") if is_float(x) else x for name, x in given.items()} | mechanism.options(
        True
    )


def emulated(mechanism: Mechanism) -> dict[str, tuple[float, float]]:
    """The errors in each precision, emulated in PyTorch on the CPU."""
    found = {}
    for precision in PRECISIONS:
        with emulated_products(precision):
            run = run_torch(instances.torch_module(mechanism, "float32"), given_to(mechanism))
        found[precision] = measured(mechanism, run)
    return found


def on_device(mechanism: Mechanism, platform: str) -> dict[str, tuple[float, float]]:
    """The errors of both frameworks on an accelerator, for each setting of their matmul precision."""
    found = {}
    for precision in ("highest", "high", "default"):
        with on_platform(platform, float64=False), jax.default_matmul_precision(precision):
            run = run_jax(instances.jax_module(mechanism, "float32", platform), given_to(mechanism))
        found[f"JAX {precision}"] = measured(mechanism, run)
    for precision in ("highest", "high") if platform == "gpu" else ():
        with pinned_precision():  # restores the setting at exit
            torch.set_float32_matmul_precision(precision)
            run = run_torch(instances.torch_module(mechanism, "float32", platform), given_to(mechanism))
        found[f"PyTorch {precision}"] = measured(mechanism, run)
    return found


def page(platform: str) -> str:
    """The page in Markdown."""
    everything = track(CATALOGUE, "measuring", console=Console(stderr=True), transient=True)
    if platform == "cpu":
        how = "emulated in PyTorch on the CPU by `attention_bridge.accelerators.precision`"
        rows = {mechanism.name: emulated(mechanism) for mechanism in everything}
    else:
        how = f"run on {jax.devices(platform)[0].device_kind}"
        rows = {mechanism.name: on_device(mechanism, platform) for mechanism in everything}
    cells = ((name, *map("{0[0]:.0e}, {0[1]:.0e}".format, row.values())) for name, row in rows.items())
    return PAGE.format(
        versions=", ".join(f"{package} {version(package)}" for package in ("torch", "jax")),
        how=how,
        table=table(("mechanism", *next(iter(rows.values()))), cells, figures=None),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", default="cpu", choices=("cpu", "gpu", "tpu"))
    print(page(parser.parse_args().platform))
