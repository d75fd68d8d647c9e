"""The command `convert` from a layout of the mirrors: tensors that their modules have, and tensors that none has."""

import numpy as np
import pytest
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.catalogue import CATALOGUE
from attention_bridge.catalogue.part import build
from attention_bridge.cli import app
from attention_bridge.pretrained.families import read_config
from attention_bridge.weights import convert
from attention_bridge.weights.layouts import LAYOUTS
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.unknown import unknown
from parity_tests.helpers import families
from parity_tests.helpers.share import share

RUNNER = CliRunner()
MIRRORS = ("torch_attention", "jax_attention", "linen")


def run(*arguments):
    return RUNNER.invoke(app, ["convert", *map(str, arguments)])


def check(part):
    model = build(part, "torch_attention", {"device": "meta"})
    tensors = {name: ghost(tuple(x.shape), np.dtype("float32")) for name, x in model.state_dict().items()}
    for layout in MIRRORS:
        there, _ = convert(tensors, "torch_attention", layout)
        assert unknown(there, LAYOUTS[layout], {}) == []


def test_every_tensor_of_the_catalogue_is_known():
    for mechanism in CATALOGUE:
        check(mechanism.module)


def test_every_tensor_of_a_pretrained_family_is_known():
    for name in share(families.CASES, 4):  # chosen by the commit
        model = families.model(families.CASES[name])
        check(read_config(model.config.to_dict(), model.state_dict().keys()).model)


@pytest.mark.parametrize(
    ("layout", "name", "shape"),
    [
        ("torch_attention", "tok.weight", (5, 3)),
        ("torch_attention", "stack.0.pre.weight", (3,)),
        ("torch_attention", "stack.0.in_proj_weight", (9, 3)),
        ("torch_attention", "q_proj.kernel", (3, 5)),
        ("torch_attention", "final_norm.weight", (3, 5)),
        ("torch_attention", "out_proj.weight", (3, 5, 2)),
        ("jax_attention", "tok.embedding", (5, 3)),
        ("jax_attention", "dense.kernel", (5, 3)),
        ("jax_attention", "final_norm.weight", (3,)),
        ("jax_attention", "q_proj.weight", (5, 3)),
        ("jax_attention", "LayerNorm_0.scale", (3,)),
        ("linen", "params.query.kernel", (5, 3)),
    ],
)
def test_unknown_tensor_is_a_fault_unless_allowed_and_then_listed(tmp_path, layout, name, shape):
    given = {name: np.ones(shape, np.float32)}
    checkpoints.write(tmp_path / "old.safetensors", given)
    ways = (tmp_path / "old.safetensors", tmp_path / "new.npz", "--from", layout, "--to", "torch_attention")
    refused = run(*ways)
    assert refused.exit_code == 2
    assert "1 unexpected" in refused.stderr
    assert name in refused.stderr
    assert not (tmp_path / "new.npz").exists()
    allowed = run(*ways, "--allow-unknown")
    assert allowed.exit_code == 0, allowed.output
    assert f"no module of the mirrors has {name}" in allowed.stderr
