"""Whole tiny models in FP8 and MXFP4: parameters and outputs equal transformers' with `dequantize=True`."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.quantizers import quantizer_finegrained_fp8

from attention_bridge import checkpoints
from attention_bridge.checkpoints.quantised import dequantised

SLOW = pytest.mark.slow


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def llama():
    return transformers.LlamaConfig(
        hidden_size=24,
        intermediate_size=40,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_hidden_layers=2,
        vocab_size=11,
    )


def deepseek():
    return transformers.DeepseekV3Config(
        hidden_size=24,
        intermediate_size=40,
        moe_intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=11,
        first_k_dense_replace=1,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )


def gpt_oss():
    return transformers.GptOssConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=2,
        num_local_experts=3,
        num_experts_per_tok=2,
        vocab_size=11,
    )


def to_fp8(tensors, generator):
    """Replace the linear layers' weights by random 8-bit floats with scales."""
    for name, tensor in [*tensors.items()]:
        if tensor.ndim == 2 and ".layers." in name and not name.endswith("mlp.gate.weight"):
            tensors[name] = (torch.randn(tensor.shape, generator=generator) * 40).to(torch.float8_e4m3fn)
            grid = tensor.shape[0] // 8, tensor.shape[1] // 8
            tensors[f"{name}_scale_inv"] = torch.rand(grid, generator=generator) / 200


def to_mxfp4(tensors, generator):
    """Replace the experts' weights by random 4-bit floats with exponents."""
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, rows, columns = tensors.pop(name).shape
        blocks = experts, columns, rows // 32
        tensors[f"{name}_blocks"] = torch.randint(
            0, 256, (*blocks, 16), dtype=torch.uint8, generator=generator
        )
        tensors[f"{name}_scales"] = torch.randint(117, 123, blocks, dtype=torch.uint8, generator=generator)


FP8_MODEL = {
    "quant_method": "fp8",
    "weight_block_size": [8, 8],
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
}
MODELS = {
    "llama": (llama, to_fp8, FP8_MODEL, transformers.FineGrainedFP8Config),
    "deepseek": (deepseek, to_fp8, FP8_MODEL, transformers.FineGrainedFP8Config),
    "gpt_oss": (gpt_oss, to_mxfp4, {"quant_method": "mxfp4"}, transformers.Mxfp4Config),
}


@pytest.mark.filterwarnings("ignore")  # of transformers, about the device
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepseek", "gpt_oss"))]
)
def test_model_read_from_dequantised_tensors_is_that_of_the_reference(
    tmp_path, monkeypatch, generator, name, told
):
    """Both models have equal parameters, dtypes and outputs, with and without a dtype in config.json."""
    monkeypatch.setattr(quantizer_finegrained_fp8, "is_accelerate_available", lambda: True)
    config, change, quantisation, options = MODELS[name]
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config()).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors, generator)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    fields = json.loads((tmp_path / "config.json").read_text())
    if not told:
        del fields["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(fields | {"quantization_config": quantisation}))
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=options(dequantize=True)
    )
    with dequantised(checkpoints.open(tmp_path), quantisation) as reader:
        plain = {key: torch.from_numpy(np.array(array).view(np.int16)) for key, array in reader.items()}
    plain = {key: array.view(torch.bfloat16) for key, array in plain.items()}
    save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert found.dtype == expected.dtype == torch.bfloat16
    parameters = found.state_dict()
    assert list(parameters) == list(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert torch.equal(parameters[key], tensor), key
    tokens = torch.arange(10)[None]
    assert torch.equal(found(tokens).logits, expected(tokens).logits)
