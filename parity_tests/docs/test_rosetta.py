"""docs/rosetta.md: the page, equivalent masks and calls, names and shapes; behaviour has its own test file."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np

from attention_bridge.pages.rosetta import page
from attention_bridge.rosetta import DEFAULTS, PEERS, TRAPS, VERSIONS
from attention_bridge.weights.layouts import LAYOUTS
from parity_tests.helpers.rosetta import PROOFS, defaults
from parity_tests.helpers.rosetta.calls import (
    BATCH,
    QUERY,
    Bench,
    is_model,
    size,
)
from parity_tests.helpers.rosetta.cases import (
    WARNINGS,
    all_parameters,
    call_of,
    each,
    having,
    keys,
    own_place,
    parameters,
    public,
)

pytestmark = WARNINGS
ROOT = Path(__file__).parents[2]


class TestPage:
    def test_committed_page_is_generated_from_the_facts(self):
        assert (ROOT / "docs" / "rosetta.md").read_text() == page() + "\n"

    def test_page_is_printed_without_any_framework(self):
        program = (
            "import runpy, sys; runpy.run_module('attention_bridge.pages.rosetta', run_name='__main__'); "
            "found = {'torch', 'jax', 'flax', 'keras', 'transformers'} & set(sys.modules); sys.exit(str(found or ''))"
        )
        run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert run.stderr.strip() == ""
        assert run.stdout == page() + "\n"

    def test_stated_versions_are_those_of_the_tests(self):
        lines = dict(
            line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
        )
        assert {name: lines[name] for name in VERSIONS} == VERSIONS
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        tested = {re.split("[>=]", line)[0] for line in extras["test"]}
        assert {"equinox", "dm-haiku", "keras", "x-transformers"} <= tested

    def test_readme_counts_the_calls(self):
        assert f"of {len(PEERS)} attention calls" in (ROOT / "README.md").read_text()

    def test_every_trap_default_and_layout_is_known(self):
        assert [trap.name for trap in TRAPS] == list(PROOFS)
        assert [default.name for default in DEFAULTS] == list(defaults.MEASURED)
        assert {peer.layout_name for peer in PEERS if peer.layout_name} <= LAYOUTS.keys()


@each()
def test_signatures(peer):
    for found in public(peer.name):
        if peer.constructor:
            assert tuple(parameters(found.__init__)[: len(peer.constructor)]) == peer.constructor
        assert tuple(parameters(call_of(found))[: len(peer.arguments)]) == peer.arguments
        known = all_parameters(found)
        assert ("scale" in known) == bool(peer.scale)
        assert not peer.added or peer.added.split()[0] in known


class TestMasks:
    @each()
    def test_same_mask_works_in_every_framework(self, peer, rng):
        keep = own_place(peer, rng.random((BATCH, QUERY, keys(peer))) < 0.6)
        keep[..., 0] = True
        bench = Bench(peer, rng)
        np.testing.assert_array_equal(bench.reach(peer.call, bench.mask(keep)), keep)


class TestLayers:
    @having("tensors")
    def test_names_and_shapes(self, peer, rng):
        found = {name: x.shape for name, x in Bench(peer, rng).tensors.items()}
        stated = {name: size(shape) for name, shape in peer.tensors}
        if is_model(peer):  # a model has more tensors than its attention
            found = {name: shape for name, shape in found.items() if name in stated}
        assert found == stated
