"""Quantised checkpoints of every method: names, dtypes, laziness, and tensors that pass unchanged."""

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING
from transformers.pytorch_utils import Conv1D

from attention_bridge.checkpoints.quantised import (
    TRANSPOSED,
    dequantised,
    surplus_bias,
    unquantised,
)
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError
from parity_tests.helpers import quantised as samples

EVERY = list(samples.SAMPLES)
OTHER = "model.layers.1.q_proj"


@pytest.mark.parametrize("name", EVERY)
class TestEveryMethod:
    def test_names_and_shapes_are_those_of_an_unquantised_checkpoint(self, tmp_path, name):
        config, tensors = samples.sample(name)
        _, _, weight, shape = samples.SAMPLES[name]
        found = samples.read(tmp_path / "x.safetensors", tensors, config)
        assert set(found) == {*samples.plain(np.random.default_rng(0)), weight}
        assert found[weight].shape == shape
        assert found[weight].dtype == samples.BFLOAT16  # of the first float tensor

    def test_other_tensors_pass_unchanged(self, tmp_path, name):
        config, tensors = samples.sample(name)
        found = samples.read(tmp_path / "x.safetensors", tensors, config)
        for key in samples.plain(np.random.default_rng(0)):
            samples.same_bits(found[key], tensors[key])

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, samples.BFLOAT16])
    def test_dtype_is_the_requested_one(self, tmp_path, name, dtype):
        config, tensors = samples.sample(name)
        found = samples.read(tmp_path / "x.safetensors", tensors, config, dtype=np.dtype(dtype))
        weight = found[samples.SAMPLES[name][2]]
        assert weight.dtype == dtype
        assert np.isfinite(weight.astype(np.float32)).all()
        assert weight.astype(np.float32).std() > 0

    def test_tensors_are_read_only_when_they_are_asked_for(self, tmp_path, name):
        config, tensors = samples.sample(name)
        stored, weight = samples.write(tmp_path / "x.safetensors", tensors), samples.SAMPLES[name][2]
        fetched = []

        def fetch(key):
            fetched.append(key)
            return stored.fetch(key)

        reader = dequantised(Reader(stored.path, stored.format, stored.specs, {}, fetch), config)
        large = {key for key, array in tensors.items() if array.nbytes > 200}
        assert not large & {*fetched}
        reader.read("model.norm.weight")
        assert not large & {*fetched}
        first, again = reader.read(weight), reader.read(weight)
        samples.same_bits(first, again)
        first[...] = 0
        assert reader.read(weight).astype(np.float32).any()


def test_configuration_without_quant_method_is_that_of_bitsandbytes(tmp_path):
    for name, field in (("int8", "load_in_8bit"), ("four_bits", "load_in_4bit")):
        config, tensors = samples.sample(name)
        old = samples.read(tmp_path / "x.safetensors", tensors, {field: True})
        samples.same_bits(
            old[samples.WEIGHT], samples.read(tmp_path / "y.safetensors", tensors, config)[samples.WEIGHT]
        )


@pytest.mark.parametrize("name", ["int8", "four_bits", "gptq", "awq"])
def test_transposed_modules_have_weights_of_in_times_out(tmp_path, name):
    config, tensors = samples.sample(name)
    usual = samples.read(tmp_path / "x.safetensors", tensors, config, transposed=("c_attn",))
    turned = samples.read(tmp_path / "x.safetensors", tensors, config, transposed=("c_attn", "q_proj"))
    samples.same_bits(turned[samples.WEIGHT], np.ascontiguousarray(usual[samples.WEIGHT].T))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", EVERY)
def test_dtype_without_a_request_is_that_of_the_first_float_tensor(tmp_path, name, dtype):
    config, tensors = samples.sample(name)
    plain = {key: array.astype(dtype) for key, array in tensors.items() if not samples.is_part(key)}
    weight, path = samples.SAMPLES[name][2], tmp_path / "x.safetensors"
    found = samples.read(path, tensors | plain, config)
    samples.same_bits(found[weight], samples.read(path, tensors, config, dtype=dtype)[weight])
    alone = {key: array for key, array in tensors.items() if samples.is_part(key)}
    assert samples.read(path, alone, config)[weight].dtype == samples.BFLOAT16


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TRANSPOSED)
def test_transposed_modules_are_those_of_the_reference(model_type):
    """The reference's `Conv1D` layers."""
    sizes = {
        "n_embd": 4,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 3,
        "vocab_size": 5,
        "add_cross_attention": True,
    }
    sizes |= {"bos_token_id": 1, "eos_token_id": 2}
    config = CONFIG_MAPPING[model_type](**sizes)
    model = MODEL_MAPPING[type(config)](config)
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Conv1D)}
    assert found == set(TRANSPOSED[model_type]) - ({"q_attn"} if "q_attn" not in found else set())
    plain = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert not plain & set(TRANSPOSED[model_type])


def test_surplus_bias_is_one_of_zeros(tmp_path):
    config, tensors = samples.sample("gptq")
    biases = {
        f"{OTHER}.bias": np.zeros(16, np.float16),
        "zeros.bias": np.zeros(16, np.float16),
        "model.layers.1.norm.bias": np.zeros(3, np.float16),
    }
    more = {
        key.replace("layers.0", "layers.1"): array for key, array in tensors.items() if samples.is_part(key)
    }
    reader = dequantised(samples.write(tmp_path / "x.safetensors", tensors | more | biases), config)
    assert tensors["model.layers.0.q_proj.bias"].any()
    assert [name for name in reader.specs if surplus_bias(reader, name)] == [f"{OTHER}.bias"]
    assert not surplus_bias(reader, "absent.bias")


class TestConfiguration:
    """`unquantised`, which takes a whole config.json."""

    @pytest.mark.parametrize("name", EVERY)
    @pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
    def test_quantised_checkpoint_has_the_dtype_of_the_configuration(self, tmp_path, name, field):
        quantisation, tensors = samples.sample(name)
        config = {"model_type": "llama", field: "float16", "quantization_config": quantisation}
        weight, path = samples.SAMPLES[name][2], tmp_path / "x.safetensors"
        expected = samples.read(path, tensors, quantisation, dtype=np.dtype(np.float16))
        for given in (
            config,
            {"model_type": "llava", "text_config": config},
            config | {field: "torch.float16"},
        ):
            with unquantised(samples.write(path, tensors), given) as reader:
                samples.same_bits(reader.read(weight), expected[weight])

    def test_modules_of_gpt2_are_transposed(self, tmp_path):
        quantisation, tensors = samples.sample("int8")
        tensors = {name.replace("q_proj", "c_attn"): array for name, array in tensors.items()}
        weight = samples.WEIGHT.replace("q_proj", "c_attn")
        for model_type, shape in (("gpt2", (7, 5)), ("llama", (5, 7)), (None, (5, 7))):
            config = {"model_type": model_type, "quantization_config": quantisation}
            with unquantised(samples.write(tmp_path / "x.safetensors", tensors), config) as reader:
                assert reader.read(weight).shape == shape

    @pytest.mark.parametrize("name", EVERY)
    def test_checkpoint_quantised_without_a_word_is_refused(self, tmp_path, name):
        _, tensors = samples.sample(name)
        with samples.write(tmp_path / "x.safetensors", tensors) as reader:
            for config in ({}, {"quantization_config": None}, {"text_config": {"dtype": "float16"}}):
                with pytest.raises(
                    CheckpointError, match=r"x\.safetensors cannot be read: .* is quantised \("
                ):
                    unquantised(reader, config)

    def test_unquantised_checkpoint_is_the_reader_itself(self, tmp_path):
        tensors = samples.plain(np.random.default_rng(0))
        with samples.write(tmp_path / "x.safetensors", tensors) as reader:
            assert unquantised(reader, {"dtype": "float16"}) is reader

    def test_other_dtypes_of_a_configuration_are_those_of_the_file(self, tmp_path):
        quantisation, tensors = samples.sample("int8")
        for dtype in ("float64", "float8_e4m3fn", "auto", 3, None):
            config = {"dtype": dtype, "quantization_config": quantisation}
            with unquantised(samples.write(tmp_path / "x.safetensors", tensors), config) as reader:
                assert reader.read(samples.WEIGHT).dtype == samples.BFLOAT16
