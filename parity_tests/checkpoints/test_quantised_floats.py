"""FP8 and MXFP4 against transformers' own dequantisation, bit for bit: single weights and whole tiny models."""

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from attention_bridge.errors import CheckpointError
from parity_tests.helpers import quantised as samples

DTYPES = [(torch.float32, np.float32), (torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16)]
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
