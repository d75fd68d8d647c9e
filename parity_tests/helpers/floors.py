"""The lower bounds of pyproject.toml, and whether the package works with them.

`make test-floors` installs them and runs both parts:

```sh
python -m parity_tests.helpers.floors pins > pins.txt  # the exact versions to install
python -m parity_tests.helpers.floors smoke  # with these versions installed
```
"""

import importlib
import re
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("torch", "jax", "files", "hub", "text")
# PyPI has older releases of these only with CUDA (several GB): they stay at the version of constraints.txt.
KEPT = ("torch",)
FLOOR = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def floors() -> dict[str, str]:
    """The lower bound of each requirement, by package name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(x for e in EXTRAS for x in project["optional-dependencies"][e])]
    found = {}
    for requirement in listed:
        match = FLOOR.match(requirement)
        if match is None:
            raise ValueError(f"pyproject.toml: {requirement} has no lower bound")
        found[canonical(match[1])] = match[2]
    return found


def pinned() -> dict[str, str]:
    """The versions in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonical(name): at for name, _, at in (x.partition("==") for x in lines if "==" in x)}


def canonical(name: str) -> str:
    """The normalised spelling of a package's name."""
    return re.sub("[-_.]+", "-", name).lower()


def wanted() -> dict[str, str]:
    """The versions to install: the lower bounds, except for the packages in `KEPT`."""
    return {name: pinned()[name] if name in KEPT else floor for name, floor in floors().items()}


def pins() -> list[str]:
    """Lines for `pip install -r`."""
    return [f"{name}=={at}" for name, at in wanted().items()]


def same(found: str, floor: str) -> bool:
    """Whether a version equals the lower bound; 2.0 equals 2.0.0."""
    return re.sub(r"(\.0)+$", "", found.partition("+")[0]) == re.sub(r"(\.0)+$", "", floor)


def smoke() -> None:
    """Check imports, the command, the first mechanism of each family in both mirrors, and a file of each format."""
    for name, floor in wanted().items():
        if not same(version(name), floor):
            raise SystemExit(f"{name} must be installed at {floor}, found {version(name)}")
    for name in (
        "torch_attention",
        "jax_attention",
        "attention_bridge.cli.application",
        "attention_bridge.parity.proof",
    ):
        importlib.import_module(name)
    _command()
    families = _families()
    formats = _formats()
    kept = ", ".join(f"{name} {wanted()[name]} (floor {floors()[name]})" for name in KEPT)
    print(f"floors: {', '.join(pins())}")
    print(f"kept at the version of constraints.txt, as older ones come with CUDA alone: {kept}")
    print(f"ok: {families} families in both mirrors, {formats} file formats there and back")


def _command() -> None:
    """Check that the command line runs."""
    from typer.testing import CliRunner

    from attention_bridge.cli import app

    result = CliRunner().invoke(app, ["layouts"])
    if result.exit_code:
        raise SystemExit(f"attention-bridge layouts: {result.exception}")


def _families() -> int:
    """Check both mirrors against the oracle for the first mechanism of each family."""
    from attention_bridge.catalogue import CATALOGUE
    from attention_bridge.parity.proof import forget_compiled, prove_case

    first = {mechanism.family: mechanism for mechanism in reversed(CATALOGUE)}
    for mechanism in first.values():
        wrong = [str(found) for found in prove_case(mechanism, "none", "float32") if not found.ok]
        if wrong:
            raise SystemExit(f"{mechanism.name}: " + "; ".join(wrong))
        forget_compiled()
    return len(first)


def _formats() -> int:
    """Check that a layer's weights survive a round trip through each format bit for bit."""
    import numpy as np

    from attention_bridge import checkpoints
    from attention_bridge.pretrained.conversion import convert_checkpoint
    from parity_tests.helpers.checkpoint_samples import WRITTEN

    rng = np.random.default_rng(0)
    weights = {f"{name}_proj.weight": rng.random((4, 6), np.float32) for name in ("q", "k", "v")}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        checkpoints.write(folder / "given.safetensors", weights)
        for name, file in WRITTEN.items():
            there, back = folder / name / file, folder / f"{name}.safetensors"
            there.parent.mkdir()
            convert_checkpoint(folder / "given.safetensors", there, "torch_attention", "jax_attention")
            convert_checkpoint(there, back, "jax_attention", "torch_attention")
            found = checkpoints.read(back)
            if found.keys() != weights.keys() or any((found[n] != x).any() for n, x in weights.items()):
                raise SystemExit(f"{name}: the weights that come back are not those that were written")
    return len(WRITTEN)


if __name__ == "__main__":
    if sys.argv[1:] == ["pins"]:
        print("\n".join(pins()))
    elif sys.argv[1:] == ["smoke"]:
        smoke()
    else:
        raise SystemExit("usage: python -m parity_tests.helpers.floors pins|smoke")
