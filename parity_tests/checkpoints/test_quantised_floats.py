"""FP8 and MXFP4 against transformers' own dequantisation, bit for bit: single weights and whole tiny models."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.quantizers import quantizer_finegrained_fp8

from attention_bridge import checkpoints
from attention_bridge.checkpoints.quantised import dequantised
from attention_bridge.errors import CheckpointError
from parity_tests.helpers import quantised as samples

DTYPES = [(torch.float32, np.float32), (torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16)]
SLOW = pytest.mark.slow
BLOCK = {"quant_method": "fp8", "weight_block_size": [4, 8]}
EVEN = {"quant_method": "fp8", "weight_block_size": None}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def reference(weight, scale, dtype):
    """The reference implementation's dequantised weight."""
    return Fp8Dequantize(None)._dequantize_one(weight, scale, dtype)


def weights(generator, shape, kind=torch.float8_e4m3fn):
    """Random bytes as 8-bit floats: all values, NaNs and infinities too."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).view(kind)


def scales(generator, shape, kind=torch.float32):
    """Random scales of several magnitudes."""
    if kind in (torch.uint8, torch.float8_e8m0fnu):
        return torch.randint(90, 150, shape, dtype=torch.uint8, generator=generator).view(kind)
    size = torch.randint(-30, 20, shape, generator=generator)
    return torch.ldexp(torch.rand(shape, generator=generator) - 0.2, size).to(kind)


@pytest.mark.parametrize(("dtype", "ours"), DTYPES)
class TestFP8:
    @pytest.mark.parametrize(
        ("shape", "grid", "config"),
        [
            ((12, 24), (3, 3), BLOCK),
            ((3, 12, 24), (3, 3, 3), BLOCK),
            ((12, 24), (), EVEN),
            ((12, 24), (1,), EVEN),
            ((12, 24), (1, 1), EVEN),
            ((12, 24), (12, 1), EVEN),
            ((12, 24), (4, 6), EVEN),
            ((3, 12, 24), (3, 1, 1), EVEN),
            ((3, 12, 24), (3,), EVEN),
            ((12, 24), (1, 1), {"quant_method": "fp8"}),
            ((130, 260), (2, 4), {"quant_method": "fp8"}),
        ],
    )
    def test_bits_are_those_of_the_reference(self, tmp_path, generator, dtype, ours, shape, grid, config):
        weight, scale = weights(generator, shape), scales(generator, grid)
        stored = {"x.weight": weight, "x.weight_scale_inv": scale}
        found = samples.read(tmp_path / "x.safetensors", stored, config, dtype=ours)
        samples.same_bits(found["x.weight"], reference(weight, scale, dtype))

    @pytest.mark.parametrize("kind", [torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz])
    def test_every_8_bit_float(self, tmp_path, generator, dtype, ours, kind):
        weight, scale = weights(generator, (16, 32), kind), scales(generator, (4, 4))
        stored = {"x.weight": weight, "x.weight_scale_inv": scale}
        found = samples.read(tmp_path / "x.safetensors", stored, BLOCK, dtype=ours)
        samples.same_bits(found["x.weight"], reference(weight, scale, dtype))

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.uint8, torch.float8_e8m0fnu])
    def test_every_dtype_of_scales(self, tmp_path, generator, dtype, ours, kind):
        weight, scale = weights(generator, (16, 32)), scales(generator, (4, 4), kind)
        stored = {"x.weight": weight, "x.weight_scale_inv": scale}
        found = samples.read(
            tmp_path / "x.safetensors", stored, BLOCK | {"quant_method": "mxfp8"}, dtype=ours
        )
        samples.same_bits(found["x.weight"], reference(weight, scale, dtype))

    def test_packed_fp4_experts(self, tmp_path, generator, dtype, ours):
        weight = torch.randint(-128, 128, (5, 48), dtype=torch.int8, generator=generator)
        scale = scales(generator, (5, 3), torch.float8_e8m0fnu)
        stored = {"x.weight": weight, "x.scale": scale}
        found = samples.read(tmp_path / "x.safetensors", stored, BLOCK | {"expert_dtype": "fp4"}, dtype=ours)
        samples.same_bits(found["x.weight"], reference(weight, scale, dtype))


def test_fp8_names_of_scales(tmp_path, generator):
    weight, scale = weights(generator, (8, 16)), scales(generator, (2, 2))
    usual = samples.read(tmp_path / "x.safetensors", {"x.weight": weight, "x.weight_scale_inv": scale}, BLOCK)
    for name in ("weight_scale", "scale", "qscale_weight"):
        stored = {
            "x.weight": weight,
            f"x.{name}": scale,
            "x.activation_scale": torch.ones(()),
            "norm.scale": torch.ones(3, dtype=torch.bfloat16),
        }
        found = samples.read(tmp_path / "x.safetensors", stored, BLOCK)
        assert set(found) == {"x.weight", "norm.scale"}
        samples.same_bits(found["x.weight"], usual["x.weight"])
    fused = {
        "e.gate_up_proj": weight,
        "e.gate_up_proj_scale_inv": scale,
        "e.gate_up_proj_activation_scale": torch.ones(3),
    }
    found = samples.read(tmp_path / "x.safetensors", fused, BLOCK)
    samples.same_bits(found.pop("e.gate_up_proj"), usual["x.weight"])
    assert not found


def test_fp8_ragged_blocks_are_those_of_the_whole_matrix(tmp_path, generator):
    """The reference reads whole blocks only, so the matrix is cut out of a larger one."""
    for rows, columns in ((9, 17), (9, 24), (12, 17), (1, 1), (4, 9)):
        grid = -(-rows // 4), -(-columns // 8)
        whole, scale = weights(generator, (grid[0] * 4, grid[1] * 8)), scales(generator, grid)
        stored = {"x.weight": whole[:rows, :columns].clone(), "x.weight_scale_inv": scale}
        found = samples.read(tmp_path / "x.safetensors", stored, BLOCK, dtype=np.dtype(np.float32))
        samples.same_bits(found["x.weight"], reference(whole, scale, torch.float32)[:rows, :columns])


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (4, 3), (3,), (9,), (), (3, 3, 1), (1, 1), (12, 1)])
def test_fp8_scales_of_other_blocks_are_refused(tmp_path, generator, grid):
    stored = {"x.weight": weights(generator, (12, 24)), "x.weight_scale_inv": scales(generator, grid)}
    with pytest.raises(
        CheckpointError, match=r"x\.weight_scale_inv must have one scale for each of the 4 x 8 blocks"
    ):
        samples.read(tmp_path / "x.safetensors", stored, BLOCK)


@pytest.mark.parametrize(("dtype", "ours"), DTYPES)
def test_mxfp4_bits_are_those_of_the_reference(tmp_path, generator, dtype, ours):
    """All exponents with all pairs of codes."""
    pairs = torch.arange(256).to(torch.uint8).reshape(1, 1, 16, 16).expand(2, 256, 16, 16)
    exponents = torch.arange(256).to(torch.uint8).reshape(1, 256, 1).expand(2, 256, 16)
    mixed = torch.randint(0, 256, (2, 3, 5, 16), dtype=torch.uint8, generator=generator)
    few = torch.randint(100, 150, (2, 3, 5), dtype=torch.uint8, generator=generator)
    stored = {
        "e.gate_up_proj_blocks": pairs,
        "e.gate_up_proj_scales": exponents,
        "e.down_proj_blocks": mixed,
        "e.down_proj_scales": few,
    }
    found = samples.read(tmp_path / "x.safetensors", stored, samples.MXFP4, dtype=ours)
    samples.same_bits(found["e.gate_up_proj"], convert_moe_packed_tensors(pairs, exponents, dtype=dtype))
    samples.same_bits(found["e.down_proj"], convert_moe_packed_tensors(mixed, few, dtype=dtype))


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
