"""Flax checkpoints of transformers 4: the same model as PyTorch's checkpoint, with the same weights bit for bit."""

import json
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax import serialization
from safetensors.numpy import save_file

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from parity_tests.helpers import families, flax_checkpoints, heads
from parity_tests.helpers.families import CASES

# Families that had Flax classes in transformers 4.
FAMILIES = (
    "albert", "bart", "bert", "blenderbot", "blenderbot_small", "bloom", "clip", "distilbert", "gemma", "gpt2", "gptj",
    "llama", "marian, sinusoidal positions", "mbart", "mistral", "mt5", "opt", "roberta", "t5", "t5 gated, untied",
    "vit with classes", "whisper", "xglm",
)  # fmt: skip
CLASSES = (
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "DistilBertForMaskedLM",
    "AlbertForTokenClassification",
    "RobertaForMaskedLM",
    "BartModel",
    "WhisperModel",
)
QUICK = ("bert", "gpt2", "llama", "t5 gated, untied", "whisper", "vit with classes", "clip")


def same(found, expected):
    """Whether two readings are of one model with the same weights."""
    assert found.reading.model == expected.reading.model
    assert found.weights.keys() == expected.weights.keys()
    for name, x in expected.weights.items():
        assert x.dtype == found.weights[name].dtype, name
        assert np.array_equal(x, found.weights[name]), name
    return True


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in FAMILIES]
)
@pytest.mark.parametrize("shards", [1, 3])
def test_flax_checkpoint_of_a_family_gives_the_weights_of_pytorch(tmp_path, name, shards):
    model = families.model(CASES[name])
    model.save_pretrained(tmp_path / "torch")
    flax_checkpoints.write(tmp_path / "flax", model, shards=shards)
    assert same(read_pretrained(tmp_path / "flax"), read_pretrained(tmp_path / "torch"))


@pytest.mark.parametrize("name", CLASSES)
def test_flax_checkpoint_of_a_class_gives_its_head(tmp_path, name):
    model = heads.model(name)
    model.save_pretrained(tmp_path / "torch")
    flax_checkpoints.write(tmp_path / "flax", model)
    assert same(read_pretrained(tmp_path / "flax"), read_pretrained(tmp_path / "torch"))


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_flax_checkpoint_gives_the_outputs_of_transformers_and_is_saved_for_it(tmp_path, framework):
    case = CASES["gpt2"]
    model = families.model(case)
    flax_checkpoints.write(tmp_path / "flax", model)
    loaded = load_pretrained(tmp_path / "flax", framework)
    array = {"torch": torch.from_numpy, "jax": jnp.asarray}[framework]
    found, expected = families.ours(case, loaded, array), families.reference(case, model)
    bound = families.bound(model)
    assert np.abs(found["output"] - expected["output"]).max() <= bound * np.abs(expected["output"]).max()
    save_pretrained(loaded, tmp_path / "back")
    assert not (tmp_path / "back" / "flax_model.msgpack").exists()
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back")
    for name, x in model.float().state_dict().items():
        assert torch.equal(x, back.state_dict()[name]), name


def test_flax_checkpoint_in_bfloat16_and_in_float16(tmp_path):
    model = families.model(CASES["bert"])
    for dtype in (ml_dtypes.bfloat16, np.float16):
        flax_checkpoints.write(tmp_path, model, dtype=dtype)
        weights = read_pretrained(tmp_path).weights
        assert {x.dtype for x in weights.values()} == {np.dtype(dtype)}
        name = "layers.0.attention.q_proj.weight"
        assert np.array_equal(
            weights[name],
            model.encoder.layer[0].attention.self.query.weight.detach().numpy().astype(dtype),
        )


def test_flax_checkpoint_in_safetensors(tmp_path):
    """The Flax classes wrote safetensors too, with the word `flax` in the header."""
    model = families.model(CASES["bert"])
    model.save_pretrained(tmp_path / "torch")
    flax_checkpoints.write(tmp_path / "flax", model)
    (tmp_path / "flax" / "flax_model.msgpack").unlink()
    tensors = {
        ".".join(path): np.ascontiguousarray(x) for path, x in flax_checkpoints.flax_tensors(model).items()
    }
    save_file(tensors, tmp_path / "flax" / "model.safetensors", metadata={"format": "flax"})
    assert same(read_pretrained(tmp_path / "flax"), read_pretrained(tmp_path / "torch"))


def test_transposed_kernel_of_a_square_map_is_noticed(tmp_path):
    """The control: a checkpoint with the axes of PyTorch gives other weights."""
    model = families.model(replace(CASES["gpt2"], fields={**CASES["gpt2"].fields, "n_inner": 12}))
    model.save_pretrained(tmp_path / "torch")
    flax_checkpoints.write(tmp_path / "flax", model)
    file = tmp_path / "flax" / "flax_model.msgpack"
    tree = serialization.msgpack_restore(file.read_bytes())
    kernels = tree["transformer"]["h"]["0"]["mlp"]["c_fc"]
    kernels["kernel"] = np.ascontiguousarray(kernels["kernel"].T)
    file.write_bytes(serialization.to_bytes(tree))
    with pytest.raises(AssertionError):
        same(read_pretrained(tmp_path / "flax"), read_pretrained(tmp_path / "torch"))


def test_missing_index_or_shard_is_named(tmp_path):
    flax_checkpoints.write(tmp_path, families.model(CASES["bert"]), shards=2)
    shard = tmp_path / "flax_model-00002-of-00002.msgpack"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"names shards that are missing: {shard.name}"):
        read_pretrained(tmp_path)
    shard.write_bytes(content)
    (tmp_path / "flax_model.msgpack.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"not its index flax_model\.msgpack\.index\.json"):
        read_pretrained(tmp_path)


def test_index_that_names_another_tensor_is_refused(tmp_path):
    flax_checkpoints.write(tmp_path, families.model(CASES["bert"]), shards=2)
    file = tmp_path / "flax_model.msgpack.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["other/kernel"] = "flax_model-00001-of-00002.msgpack"
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"disagree about which tensors are in it: other\.kernel"):
        read_pretrained(tmp_path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path, kept):
    flax_checkpoints.write(tmp_path, families.model(CASES["bert"]))
    file = tmp_path / "flax_model.msgpack"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError) as error:
        read_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    flax_checkpoints.write(tmp_path, families.model(CASES["bert"]))
    file = tmp_path / "flax_model.msgpack"
    tree = serialization.msgpack_restore(file.read_bytes())
    tree["pooler"]["dense"]["weight"] = tree["pooler"]["dense"]["kernel"]
    file.write_bytes(serialization.to_bytes(tree))
    with pytest.raises(CheckpointError, match=r"which are both pooler\.dense\.weight in PyTorch: remove one"):
        read_pretrained(tmp_path)
