"""Print the differences of every mechanism from other libraries' implementations."""

import sys
from contextlib import redirect_stdout
from importlib.metadata import version

from attention_bridge.catalogue import CATALOGUE
from parity_tests.peers import measure, peers

PACKAGES = ("torch", "jax", "flax", "transformers", "keras", "x-transformers")
PAGE = """# Peers

Printed by `python -m parity_tests.peers`, with {versions}.

Each mechanism runs with the same weights and inputs as another library's implementation ("peer"). `torch` and `jax` are
the largest differences of the mirrors' outputs from the peer's, relative to the largest output of the peer. `bound` is
the difference that rounding can explain.

| mechanism | peer | dtype | torch | jax | bound |
| --- | --- | --- | --- | --- | --- |
{rows}"""


def main() -> None:
    """Print the page."""
    found = {mechanism.name: [] for mechanism in CATALOGUE}
    with redirect_stdout(sys.stderr):  # some peers print when they are imported
        for one in peers():
            m = measure(one)
            found[one.mechanism].append(
                f"| {one.mechanism} | {one.name} | {m.dtype} | {m.torch_err:.0e} | {m.jax_err:.0e} | "
                f"{m.tolerance:.0e} |"
            )
    rows = [
        row
        for mechanism in CATALOGUE
        for row in found[mechanism.name] or [f"| {mechanism.name} | none: {mechanism.no_peer} | | | | |"]
    ]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    print(PAGE.format(versions=versions, rows="\n".join(rows)))


if __name__ == "__main__":
    main()
