"""Whole models with quantised weights: loaded as the reference dequantises them, and saved dequantised."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.conversion import convert_checkpoint
from attention_bridge.weights.leaves import to_numpy
from parity_tests.helpers import heads

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
FP8 = {"quant_method": "fp8", "weight_block_size": [8, 8], "fmt": "e4m3", "activation_scheme": "dynamic"}


def quantised(directory, name):
    """A model whose projections are 8-bit floats with a scale for each 8 x 8 block, and its dequantised tensors."""
    model = heads.model(name).to(torch.bfloat16)
    model.save_pretrained(directory)
    tensors, plain = checkpoints.read(directory), {}
    rng = np.random.default_rng(4)
    for key in [key for key in tensors if key.endswith("_proj.weight")]:
        rows, columns = tensors[key].shape
        codes = tensors[key].astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
        scales = rng.uniform(0.5, 2.0, (-(-rows // 8), -(-columns // 8))).astype(np.float32)
        wide = np.repeat(np.repeat(scales, 8, 0)[:rows], 8, 1)[:, :columns]
        plain[key] = (codes.astype(np.float32) * wide).astype(ml_dtypes.bfloat16)
        tensors |= {key: codes, f"{key}_scale_inv": scales}
    checkpoints.write(directory / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": FP8}))
    return {**{key: x for key, x in tensors.items() if not key.endswith("_scale_inv")}, **plain}


@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_block_scaled_checkpoint_is_loaded_dequantised_and_saved_so(tmp_path, framework):
    expected = quantised(tmp_path / "given", "DeepseekV3ForCausalLM")
    model = load_pretrained(tmp_path / "given", framework)
    save_pretrained(model, tmp_path / "back")
    back = checkpoints.read(tmp_path / "back")
    assert back.keys() == expected.keys()
    assert all(back[name].tobytes() == x.tobytes() for name, x in expected.items())
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    again = load_pretrained(tmp_path / "back", framework)
    tokens = ARRAYS[framework](np.array([[3, 7, 2]], np.int32))
    one, two = (np.asarray(to_numpy("logits", x(tokens).logits)) for x in (model, again))
    assert one.tobytes() == two.tobytes()


def test_quantised_checkpoint_without_its_configuration_is_never_read_as_something_else(tmp_path):
    quantised(tmp_path, "LlamaForCausalLM")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quantization_config"):
        load_pretrained(tmp_path, "torch")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="quantization_config"):
        convert_checkpoint(tmp_path, tmp_path / "out.safetensors", "hf.llama", "jax_attention")
    assert not (tmp_path / "out.safetensors").exists()
