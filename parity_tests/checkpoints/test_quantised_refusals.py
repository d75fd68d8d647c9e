"""Quantised checkpoints of every method: refusals by name."""

import numpy as np
import pytest
from transformers.utils.quantization_config import QuantizationMethod

from attention_bridge.checkpoints.quantised import quantised_without_config
from attention_bridge.checkpoints.quantised.methods import KNOWN, REFUSED
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec
from parity_tests.helpers import quantised as samples

EVERY = list(samples.SAMPLES)
OTHER = "model.layers.1.q_proj"


def specs(tensors):
    return {name: Spec(array.shape, array.dtype) for name, array in tensors.items()}


def refusal(path, tensors, config, **options):
    with pytest.raises(CheckpointError) as caught:
        samples.read(path, tensors, config, **options)
    assert "\n" not in str(caught.value)
    return caught.value.whole


@pytest.mark.parametrize("name", EVERY)
class TestEveryMethod:
    def test_absent_part_is_named(self, tmp_path, name):
        config, tensors = samples.sample(name)
        optional = {f"{samples.WEIGHT.removesuffix('weight')}{last}" for last in ("weight_format", "g_idx")}
        plain = {*samples.plain(np.random.default_rng(0))}
        for key in {*tensors} - optional - plain:
            others = {each: array for each, array in tensors.items() if each != key}
            text = refusal(tmp_path / "x.safetensors", others, config)
            assert text.startswith(f"{tmp_path / 'x.safetensors'} is damaged or no "), (key, text)
            assert key.rpartition(".")[2].removesuffix("_inv") in text, (key, text)

    def test_without_configuration_it_is_named(self, name):
        _, tensors = samples.sample(name)
        text = quantised_without_config(specs(tensors))
        assert text is not None
        assert "but config.json has no quantization_config" in text
        assert any(text.startswith(f"{key} is quantised (") for key in tensors)

    def test_configuration_of_another_method_is_refused(self, tmp_path, name):
        _, tensors = samples.sample(name)
        for other in EVERY:
            config, _ = samples.sample(other)
            if other != name:
                assert refusal(tmp_path / "x.safetensors", tensors, config), other

    def test_second_module_of_another_method_is_refused(self, tmp_path, name):
        config, tensors = samples.sample(name)
        for other in EVERY:
            if {name, other} == {"gptq", "awq"} or name == other:
                continue  # they have the same names
            _, more = samples.sample(other)
            renamed = {
                key.replace("layers.0", "layers.1"): array for key, array in more.items() if "layers.0" in key
            }
            text = refusal(tmp_path / "x.safetensors", tensors | renamed, config)
            assert "layers.1" in text, (other, text)


def test_every_method_of_transformers_is_dequantised_or_refused_by_name(tmp_path):
    for method in QuantizationMethod:
        if method.value in KNOWN:
            continue
        config = {"quant_method": method.value}
        text = refusal(tmp_path / "x.safetensors", samples.plain(np.random.default_rng(0)), config)
        assert text.startswith(
            f"config.json has the quant_method {method.value}, which is not dequantised here"
        ), text
        assert "dequantise it, and save that" in text
    assert {method.value for method in QuantizationMethod} <= {*KNOWN, *REFUSED}


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({}, "got None"),
        ({"quant_method": None}, "got None"),
        ({"quant_method": "exl3"}, "got 'exl3'"),
        ({"quant_method": ["fp8"]}, "got ['fp8']"),
        ([], "with names, got []"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit or load_in_8bit true"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": True}, "got True and True"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": 1}, "load_in_4bit is true or false, got 1"),
        (samples.FP8 | {"weight_block_size": [0, 128]}, "two positive whole numbers, got [0, 128]"),
        (samples.FP8 | {"weight_block_size": [128]}, "two positive whole numbers, got [128]"),
        (samples.FP8 | {"weight_block_size": [4, True]}, "two positive whole numbers, got [4, True]"),
        (samples.GPTQ | {"bits": 5}, "bits is one of 2, 3, 4, 8, got 5"),
        (samples.GPTQ | {"bits": "4"}, "bits is a whole number, got '4'"),
        (samples.GPTQ | {"is_marlin_format": True}, "is_marlin_format is false, got True"),
        (samples.GPTQ | {"group_size": 0}, "group_size is positive, or -1"),
        (
            samples.GPTQ | {"checkpoint_format": "marlin"},
            "checkpoint_format is gptq or gptq_v2, got 'marlin'",
        ),
        (samples.AWQ | {"version": "gemv"}, "version is gemm, got 'gemv'"),
        (samples.AWQ | {"version": "gemv_fast"}, "version is gemm, got 'gemv_fast'"),
        (samples.AWQ | {"bits": 3}, "bits is 4, got 3"),
        (samples.AWQ | {"backend": "llm-awq"}, "backend is not llm-awq"),
    ],
)
def test_unusable_configuration_is_refused(tmp_path, config, part):
    method = config.get("quant_method") if isinstance(config, dict) else None
    name = method if isinstance(method, str) and method in samples.SAMPLES else "int8"
    text = refusal(tmp_path / "x.safetensors", samples.sample(name)[1], config, source="here/config.json")
    assert text.startswith("here/config.json "), text
    assert part in text, text


def test_dtype_that_is_no_float_is_refused(tmp_path):
    config, tensors = samples.sample("int8")
    text = refusal(tmp_path / "x.safetensors", tensors, config, dtype=np.dtype(np.int8))
    assert text == "dequantised tensors must be bfloat16, float16 or float32, got int8"


def test_weight_of_codes_without_sidecars_is_refused(tmp_path):
    for name in EVERY:
        config, tensors = samples.sample(name)
        for dtype in (np.int8, np.uint8, samples.FLOAT8):
            more = tensors | {f"{OTHER}.weight": np.ones((3, 4), dtype)}
            text = refusal(tmp_path / "x.safetensors", more, config)
            assert f"{OTHER}.weight is " in text, text


def test_quantised_and_plain_tensor_of_one_name_are_refused(tmp_path):
    for name in ("gptq", "awq", "mxfp4"):
        config, tensors = samples.sample(name)
        weight = samples.SAMPLES[name][2]
        more = tensors | {weight: np.ones((2, 3), np.float32)}
        text = refusal(tmp_path / "x.safetensors", more, config)
        assert f"it has {weight} twice" in text


def test_unquantised_tensors_show_no_quantisation():
    rng = np.random.default_rng(0)
    names = {
        "transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8),  # GPT-2's causal mask
        "logit_scale": np.float32(1) * np.ones(()),
        "norm.scale": np.ones(3, np.float32),
        "norm.weight": np.ones(3, np.float32),
        "bert.embeddings.position_ids": np.arange(4),
        "layer.weight_scale": np.ones(1, np.float32),
        "layer.weight": np.ones((2, 2), np.float32),
        "cast.weight": np.ones((2, 2), samples.FLOAT8),  # cast without a scale, which nothing is said about
        "x_scales": np.ones(2, np.float32),
    }
    assert quantised_without_config(specs(samples.plain(rng) | names)) is None
