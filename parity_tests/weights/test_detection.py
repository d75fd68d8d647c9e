"""The layouts that `inspect` names for tensors of the mirrors' own modules."""

import numpy as np
import pytest

from attention_bridge.catalogue import CATALOGUE
from attention_bridge.catalogue.part import build
from attention_bridge.weights import convert, detect
from attention_bridge.weights.engine import enter
from attention_bridge.weights.layouts import LAYOUTS
from attention_bridge.weights.leaves import Spec
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.report import Report

F32 = np.dtype("float32")


def named(shapes):
    return [candidate.layout for candidate in detect.detect({n: Spec(s, F32) for n, s in shapes.items()})]


@pytest.mark.parametrize("layout", ["torch_attention", "jax_attention", "linen"])
def test_files_of_the_mirrors_are_detected(layout):
    for mechanism in CATALOGUE[::5]:
        state = build(mechanism.module, "torch_attention", {"device": "meta"}).state_dict()
        given, _ = convert(
            {n: ghost(tuple(x.shape), F32) for n, x in state.items()}, "torch_attention", layout
        )
        shapes = {f"params.{n}" if layout == "linen" else n: x.shape for n, x in given.items()}
        assert not shapes or named(shapes)[0] == layout, mechanism.name


def test_scanned_layers_are_detected():
    scanned = {"params.layers.q_proj.kernel": (1, 4, 6), "params.layers.attention_norm.scale": (1, 4)}
    assert named(scanned) == ["linen.scan"]
    assert "linen.scan" not in named({"params.layers.0.q_proj.kernel": (4, 6)})


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"rngs.dropout.key": (2,)},
        {"q_proj.weight": (4, 4), "tok.weight": (4, 4)},
        {"q_proj.kernel": (4, 4), "norm.weight": (4,)},
        {"q_proj.weight": (4, 4), "q_proj.kernel": (4, 4)},
    ],
)
def test_tensors_of_no_module_have_no_layout(shapes):
    assert named(shapes) == []


def test_stack_of_too_many_layers_is_a_fault():
    report = Report("linen.scan", "")
    enter({"layers.q_proj.kernel": ghost((10**9, 0), F32)}, LAYOUTS["linen.scan"], report)
    assert [fault.fault for fault in report.faults] == ["wrong shape"]
    assert named({"layers.q_proj.kernel": (10**9, 0, 4)}) == []
