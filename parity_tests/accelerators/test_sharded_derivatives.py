"""Attention sharded over devices: second derivatives and fully masked keys, in both frameworks.

The results on two devices are computed in separate processes by `parity_tests.helpers.sharded_derivatives`.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import torch_attention
from parity_tests.helpers.sharded_derivatives import DEAD, HELD, SCHEMES, TWICE, arrays, cases, filled
from torch_attention.ops.call import checked_call
from torch_attention.ops.distributed.exchange import exchange_part
from torch_attention.ops.distributed.ring import ring_part
from torch_attention.ops.distributed.shards import Shards
from torch_attention.sharding import make_mesh

BOUND = 1e-12
MIRRORS = ("torch", "jax")


@pytest.fixture
def one_device(tmp_path):
    """A mesh with one device: a ring of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield Shards(make_mesh({"sequence": 1}), (), (), 0)
    dist.destroy_process_group()


@pytest.mark.parametrize("part", [ring_part, exchange_part])
def test_second_derivative_of_one_devices_part_is_right(one_device, part, as_shipped):
    given = [torch.tensor(x, requires_grad=True) for x in arrays("bias", "sinks").values()]
    narrow = [torch.tensor(x, requires_grad=True) for x in arrays().values()]  # as in fused kernels

    def biased(query, key, value, bias, sinks):
        return part(checked_call(query, key, value, bias, sinks=sinks, softcap=2.0), shards=one_device)

    def causal(query, key, value):
        return part(checked_call(query, key, value, is_causal=True, query_offset=2), shards=one_device)

    assert torch.autograd.gradgradcheck(biased, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(causal, narrow, fast_mode=True)


@pytest.mark.parametrize("part", [ring_part, exchange_part])
def test_sink_of_minus_infinity_with_a_fully_masked_row(one_device, part, as_shipped):
    *given, sinks = (torch.tensor(x) for x in arrays("sinks").values())
    sinks[0] = -torch.inf
    mask = torch.arange(given[0].shape[-2])[:, None] > 0  # the first row is fully masked
    leaves = [x.requires_grad_() for x in (*given, sinks)]
    call = checked_call(*leaves[:3], mask=mask, sinks=sinks)
    output = part(call, shards=one_device)
    expected = torch_attention.dot_product_attention(
        *leaves[:3], mask=mask, sinks=sinks, implementation="reference"
    )
    assert not output[..., 0, :].any()
    for x, y in zip(
        (output, *torch.autograd.grad(output.sin().sum(), leaves)),
        (expected, *torch.autograd.grad(expected.sin().sum(), leaves)),
        strict=True,
    ):
        assert (x - y).abs().max() <= BOUND


@cache
def on_one_device(name):
    """Output, gradients and second derivatives of the definition."""
    given, options = (
        TWICE[name]
        if name in TWICE
        else (filled(name.partition("/")[0], 0.0), DEAD[name.partition("/")[0]][0])
    )
    leaves = {key: torch.tensor(x, requires_grad=True) for key, x in given.items()}
    options = {key: torch.tensor(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}
    output = torch_attention.dot_product_attention(**leaves, **options, implementation="reference")
    first = torch.autograd.grad(output.sin().sum(), list(leaves.values()), create_graph=True)
    found = {"output": output} | {f"gradient {key}": x for key, x in zip(leaves, first, strict=True)}
    if name in TWICE:
        second = torch.autograd.grad(sum(x.cos().sum() for x in first), list(leaves.values()))
        found |= {f"second {key}": x for key, x in zip(leaves, second, strict=True)}
    return {key: x.detach().numpy() for key, x in found.items()}


def run(mirror, path, *more):
    """The results of every case on two devices."""
    subprocess.run(
        [sys.executable, "-m", "parity_tests.helpers.sharded_derivatives", mirror, str(path), *more],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=600,
    )
    return dict(np.load(path))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("derivatives")
    return {mirror: run(mirror, folder / f"{mirror}.npz") for mirror in MIRRORS}


def errors(found, scheme, name):
    """The error of each array of a case against the definition on one device; inf for arrays that are not finite."""
    expected = on_one_device(name)
    got = {key: found[f"{scheme}/{name}/{key}"] for key in expected}
    return {
        key: float(np.abs(x - expected[key]).max() / np.abs(expected[key]).max())
        if np.isfinite(x).all()
        else np.inf
        for key, x in got.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mirror", MIRRORS)
class TestTwoDevices:
    @pytest.mark.parametrize("name", TWICE)
    def test_second_derivative_equals_the_definition(self, results, mirror, scheme, name):
        found = errors(results[mirror], scheme, name)
        assert any(key.startswith("second") for key in found)
        assert max(found.values()) <= BOUND, found

    @pytest.mark.parametrize("held", HELD)
    @pytest.mark.parametrize("kind", DEAD)
    def test_fully_masked_key_has_no_influence(self, results, mirror, scheme, kind, held):
        found = errors(results[mirror], scheme, f"{kind}/{held}")
        assert max(found.values()) <= BOUND, found


@pytest.mark.slow
def test_missing_gradient_communication_is_detected(tmp_path):
    found = run("torch", tmp_path / "broken.npz", "broken")
    twice = [name for name, *_, twice in cases() if twice]
    assert any(max(errors(found, "ring", name).values()) > 1e-3 for name in twice)
