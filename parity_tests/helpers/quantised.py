"""Quantised checkpoints for the tests: a small sample of each method, and helpers that write and compare them."""

import json

import ml_dtypes
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from attention_bridge import checkpoints
from attention_bridge.checkpoints.quantised import dequantised
from attention_bridge.weights.leaves import Spec, to_numpy, to_torch

BFLOAT16, FLOAT8 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)
FP8 = {"quant_method": "fp8", "weight_block_size": [4, 8], "fmt": "e4m3", "activation_scheme": "dynamic"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_8bit": False, "load_in_4bit": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}


def write(path, tensors):
    """Write numpy arrays or torch tensors as safetensors, and open the file."""
    torches = {name: to_torch(t) if isinstance(t, np.ndarray) else t for name, t in tensors.items()}
    save_file({name: t.contiguous() for name, t in torches.items()}, path, {"format": "pt"})
    return checkpoints.open(path)


def read(path, tensors, config, **options):
    """Write tensors and read them dequantised; announced shapes and dtypes are checked."""
    with dequantised(write(path, tensors), config, **options) as reader:
        return {name: np.array(array) for name, array in reader.items()}


def same_bits(array, expected):
    """Assert that an array has the dtype, shape and bits of an array or of a torch tensor; NaNs are alike."""
    if isinstance(expected, torch.Tensor):
        expected = to_numpy("expected", expected.contiguous())
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    kind = f"u{array.dtype.itemsize}"
    alike = array.view(kind) == expected.view(kind)
    both = np.isnan(array.astype(np.float64)) & np.isnan(expected.astype(np.float64))
    wrong = ~(alike | both)
    assert not wrong.any(), (wrong.sum(), array[wrong][:5], expected[wrong][:5])


def fixture(path):
    """The cases of `quantised.safetensors`: name, stored tensors, expected tensors, configuration and dtype."""
    with safe_open(path, "pt") as file:
        cases = json.loads(file.metadata()["cases"])
        names = list(file.keys())
        for case, fields in cases.items():
            parts = [
                {
                    name.removeprefix(f"{case}/{kind}/"): file.get_tensor(name)
                    for name in names
                    if name.startswith(f"{case}/{kind}/")
                }
                for kind in ("stored", "expected")
            ]
            dtype = np.dtype(getattr(ml_dtypes, fields["dtype"], fields["dtype"]))
            yield case, *parts, fields["quantization_config"], dtype


def plain(rng):
    """Tensors that are not quantised."""
    return {
        "model.norm.weight": rng.standard_normal(7).astype(BFLOAT16),
        "model.layers.0.q_proj.bias": rng.standard_normal(16).astype(BFLOAT16),
        "model.position_ids": np.arange(5, dtype=np.int64),
    }


def fp8(rng):
    """A weight with ragged blocks, and its scales."""
    return {
        "model.layers.0.q_proj.weight": rng.standard_normal((6, 20)).astype(FLOAT8),
        "model.layers.0.q_proj.weight_scale_inv": rng.random((2, 3), np.float32),
    }


def mxfp4(rng):
    """Experts' weights."""
    return {
        "model.layers.0.mlp.experts.down_proj_blocks": rng.integers(0, 256, (2, 5, 3, 16), np.uint8),
        "model.layers.0.mlp.experts.down_proj_scales": rng.integers(110, 140, (2, 5, 3), np.uint8),
    }


def int8(rng):
    """A weight of LLM.int8()."""
    return {
        "model.layers.0.q_proj.weight": rng.integers(-127, 128, (5, 7), np.int8),
        "model.layers.0.q_proj.SCB": rng.random(5, np.float32),
        "model.layers.0.q_proj.weight_format": np.array(0, np.uint8),
    }


def four_bits(rng):
    """A weight of NF4 with double quantisation."""
    from attention_bridge.checkpoints.quantised.bnb_state import NF4

    state = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": [10, 15],
        "nested_blocksize": 2,
        "nested_dtype": "float32",
        "nested_offset": 0.25,
    }
    weight = "model.layers.0.q_proj.weight"
    return {
        weight: rng.integers(0, 256, (75, 1), np.uint8),
        f"{weight}.absmax": rng.integers(0, 256, 3, np.uint8),
        f"{weight}.quant_map": np.array(NF4, np.float32),
        f"{weight}.nested_absmax": rng.random(2, np.float32),
        f"{weight}.nested_quant_map": rng.standard_normal(256).astype(np.float32),
        f"{weight}.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }


def gptq(rng):
    """A weight of GPTQ with groups out of order."""
    module = "model.layers.0.q_proj"
    return {
        f"{module}.qweight": rng.integers(-(2**31), 2**31, (3, 16), np.int32),
        f"{module}.qzeros": rng.integers(-(2**31), 2**31, (3, 2), np.int32),
        f"{module}.scales": rng.random((3, 16)).astype(np.float16),
        f"{module}.g_idx": rng.permutation(np.arange(24) // 8).astype(np.int32),
    }


def awq(rng):
    """A weight of AWQ."""
    module = "model.layers.0.q_proj"
    return {
        f"{module}.qweight": rng.integers(-(2**31), 2**31, (24, 5), np.int32),
        f"{module}.qzeros": rng.integers(-(2**31), 2**31, (3, 5), np.int32),
        f"{module}.scales": rng.random((3, 40)).astype(np.float16),
    }


# Configuration, tensors, and name and shape of the dequantised weight, by method.
WEIGHT = "model.layers.0.q_proj.weight"
SAMPLES = {
    "fp8": (FP8, fp8, WEIGHT, (6, 20)),
    "mxfp4": (MXFP4, mxfp4, "model.layers.0.mlp.experts.down_proj", (2, 96, 5)),
    "int8": (INT8, int8, WEIGHT, (5, 7)),
    "four_bits": (FOUR_BITS, four_bits, WEIGHT, (10, 15)),
    "gptq": (GPTQ, gptq, WEIGHT, (16, 24)),
    "awq": (AWQ, awq, WEIGHT, (40, 24)),
}


def sample(name, seed=0):
    """Configuration and tensors of a method's sample, unquantised tensors among them."""
    config, tensors, _, _ = SAMPLES[name]
    rng = np.random.default_rng(seed)
    return config, plain(rng) | tensors(rng)


def is_part(name):
    """Whether a tensor of a sample, perhaps of another layer, belongs to a quantised weight."""
    return ".layers." in name and not name.endswith("bias")


def spec(array):
    """Shape and dtype of an array."""
    return Spec(array.shape, array.dtype)
