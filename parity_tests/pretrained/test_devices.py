"""Devices by name: absent and malformed ones raise in one line."""

import jax
import pytest
import torch

from attention_bridge.errors import InputError
from attention_bridge.pretrained.devices import find_device

TORCH = {
    "cpu": torch.device("cpu"),
    "cpu:0": torch.device("cpu", 0),
    torch.device("cpu"): torch.device("cpu"),
}
MALFORMED = ["", "CPU", "cuda:", "cpu:-1", "cpu:1:2", ":0", "cuda 0", 0, 1.5, ("cpu",), object]


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", TORCH)
def test_torch_device_is_found(name):
    assert find_device("torch", name) == TORCH[name]


@pytest.mark.parametrize(("name", "found"), [("cuda", ("cuda", None)), ("cuda:1", ("cuda", 1))])
def test_gpu_is_found_without_a_context(two_gpus, name, found):
    device = find_device("torch", name)
    assert (device.type, device.index) == found
    assert find_device("torch", torch.device(*filter(None, found))) == device
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("name", ["cpu", "cpu:0", jax.devices("cpu")[0]])
def test_jax_device_is_found(name):
    assert find_device("jax", name) == jax.devices("cpu")[0]


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_no_choice_is_none(framework):
    assert find_device(framework, None) is None


@pytest.mark.parametrize(
    "name", ["cuda:2", torch.device("cuda:2"), "mps:9", "meta", "tpu", "cpu:1", f"cuda:{10**30}"]
)
def test_absent_torch_device_raises_with_those_that_there_are(two_gpus, name):
    with pytest.raises(
        InputError, match=r"^device .* is not on this machine: PyTorch finds cpu, cuda:0, cuda:1"
    ):
        find_device("torch", name)


@pytest.mark.parametrize(
    "name", ["tpu", "tpu:0", "nothing", f"cpu:{len(jax.devices('cpu'))}", f"cpu:{10**30}"]
)
def test_absent_jax_device_raises_with_those_that_there_are(name):
    with pytest.raises(InputError, match=r"^device '.*' is not on this machine: JAX finds .*cpu:0"):
        find_device("jax", name)


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", MALFORMED, ids=str)
def test_malformed_device_raises(framework, name):
    with pytest.raises(InputError, match=r"^device must be one of .*cpu.*, got ") as raised:
        find_device(framework, name)
    assert "\n" not in str(raised.value)


def test_device_of_the_other_framework_raises():
    with pytest.raises(InputError, match=r"^device must be one of cpu.* for PyTorch, got "):
        find_device("torch", jax.devices("cpu")[0])
    with pytest.raises(InputError, match=r"^device must be one of .* for JAX, got "):
        find_device("jax", torch.device("cpu"))


def test_platform_that_fails_to_start_has_no_devices(monkeypatch):
    def fail(backend=None):
        raise RuntimeError(f"Unable to initialize backend {backend}\nof many lines")

    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(InputError, match=r"^device 'cpu' is not on this machine: JAX finds none$"):
        find_device("jax", "cpu")


def test_unknown_framework_raises():
    with pytest.raises(InputError, match="framework must be torch or jax, got 'keras'"):
        find_device("keras", "cpu")
