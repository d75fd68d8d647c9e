"""Loading onto a device or a mesh: each device holds its part, and the logits equal the logits of one device."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge import checkpoints
from attention_bridge.errors import InputError
from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers import families, heads
from parity_tests.helpers.sharded_loading import DEVICES, TOKENS

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A directory with a tiny Llama."""
    directory = tmp_path_factory.mktemp("llama")
    heads.model("LlamaForCausalLM").save_pretrained(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("framework", ARRAYS)
def test_each_device_of_a_mesh_holds_its_part(llama, tmp_path, framework):
    path = tmp_path / "found.npz"
    subprocess.run(
        [sys.executable, "-m", "parity_tests.helpers.sharded_loading", framework, str(llama), str(path)],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
    )
    found = np.load(path)
    whole = checkpoints.read(llama)["model.layers.0.mlp.up_proj.weight"]
    for n, part in enumerate(np.split(whole, DEVICES)):
        assert found[f"part{n}"].tobytes() == part.tobytes()
    one = load_pretrained(llama, framework)(ARRAYS[framework](TOKENS)).logits
    expected = families.numpy_of({"x": one})["x"]
    assert np.abs(found["logits"] - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta:3"])
def test_device_of_pytorch(llama, device):
    if device == "meta:3":
        with pytest.raises(InputError, match="meta"):
            load_pretrained(llama, "torch", device=device)
        return
    assert {x.device.type for x in load_pretrained(llama, "torch", device=device).parameters()} == {"cpu"}


def test_device_of_jax(llama):
    for device in ("cpu", jax.devices("cpu")[0]):
        model = load_pretrained(llama, "jax", device=device)
        assert model.token_embedding.embedding[...].devices() == {jax.devices("cpu")[0]}
    with pytest.raises(InputError, match="tpu"):
        load_pretrained(llama, "jax", device="tpu")


@pytest.mark.parametrize("framework", ARRAYS)
def test_device_and_mesh_raise(llama, framework):
    with pytest.raises(InputError, match="device must be None with a mesh"):
        load_pretrained(llama, framework, device="cpu", mesh=object())
