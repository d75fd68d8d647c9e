"""Files of mixtures of experts: stacked experts, other names of the same model, layers that are not read."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.families import read_config
from parity_tests.helpers import families
from parity_tests.helpers.families import CASES

STACKED = (
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "granite_moe_shared", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "glm4_moe", "dots1", "minimax_m2", "flex_olmo", "ernie4_5_moe", "hunyuan_moe",
    "nemotron_h, experts",
)  # fmt: skip


def output(directory, name):
    return families.ours(CASES[name], load_pretrained(directory, "torch"), torch.from_numpy)["output"]


@pytest.mark.parametrize("name", STACKED)
def test_experts_in_one_tensor_load_and_are_saved_likewise(name, tmp_path):
    """The experts of a layer are in one tensor in the memory of transformers."""
    model = families.model(CASES[name])
    model.save_pretrained(tmp_path / "apart")
    tensors = {key: x.contiguous() for key, x in model.state_dict().items()}
    assert any(key.endswith(("experts.gate_up_proj", "experts.up_proj")) for key in tensors)
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    (tmp_path / "stacked").mkdir()
    save_file(tensors, tmp_path / "stacked" / "model.safetensors", {"format": "pt"})
    (tmp_path / "stacked" / "config.json").write_bytes((tmp_path / "apart" / "config.json").read_bytes())
    np.testing.assert_array_equal(output(tmp_path / "stacked", name), output(tmp_path / "apart", name))
    save_pretrained(load_pretrained(tmp_path / "stacked", "torch"), tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], x) for key, x in tensors.items())


def changed(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_kimi_k2_is_read_as_deepseek_v3(tmp_path):
    families.model(CASES["deepseek_v3"]).save_pretrained(tmp_path)
    expected = output(tmp_path, "deepseek_v3")
    changed(tmp_path, model_type="kimi_k2", architectures=["DeepseekV3ForCausalLM"])
    np.testing.assert_array_equal(output(tmp_path, "deepseek_v3"), expected)


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_layers_for_multi_token_prediction_are_left_out_and_saved_again(name, tmp_path):
    families.model(CASES[name]).save_pretrained(tmp_path / "given")
    expected = output(tmp_path / "given", name)
    path = tmp_path / "given" / "model.safetensors"
    tensors = load_file(path)
    more = {f"model.layers.2.{key}": torch.ones(3) for key in ("eh_proj.weight", "input_layernorm.weight")}
    save_file(tensors | more, path, {"format": "pt"})
    np.testing.assert_array_equal(output(tmp_path / "given", name), expected)
    save_pretrained(load_pretrained(tmp_path / "given", "torch"), tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys() | more.keys()


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def test_mxfp4_experts_of_gpt_oss_load(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64}
    case = replace(CASES["gpt_oss"], fields={**CASES["gpt_oss"].fields, **sizes})
    families.model(case).save_pretrained(tmp_path)
    path, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
    plain = load_file(path)
    packed = dict(plain)
    for name in [name for name in plain if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, rows, columns = packed.pop(name).shape
        codes = rng.integers(0, 16, (experts, columns, rows // 32, 32), np.uint8)
        powers = rng.integers(124, 127, (experts, columns, rows // 32), np.uint8)
        values = FP4[codes] * np.exp2(powers.astype(np.float32) - 127)[..., None]
        plain[name] = torch.from_numpy(values.reshape(experts, columns, rows)).mT.contiguous()
        packed[f"{name}_blocks"] = torch.from_numpy(codes[..., ::2] | codes[..., 1::2] << 4)
        packed[f"{name}_scales"] = torch.from_numpy(powers)
    save_file(plain, path, {"format": "pt"})
    expected = output(tmp_path, "gpt_oss")
    save_file(packed, path, {"format": "pt"})
    changed(tmp_path, quantization_config={"quant_method": "mxfp4"})
    np.testing.assert_array_equal(output(tmp_path, "gpt_oss"), expected)


def configuration(name, **fields):
    return {**json.loads(CASES[name].config(**CASES[name].fields).to_json_string(use_diff=False)), **fields}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("deepseek_v3", {"num_experts_per_tok": 5}, "num_experts_per_tok of at most topk_group"),
        ("glm4_moe", {"n_group": 2, "num_experts_per_tok": 4}, "num_experts_per_tok of at most topk_group"),
        ("deepseek_v3", {"topk_group": 4}, "topk_group of at most n_group, got 4 and 3"),
        (
            "mixtral",
            {"num_experts_per_tok": 6},
            "num_experts_per_tok of at most num_local_experts, got 6 and 5",
        ),
        ("mixtral", {"num_experts": 4}, "one number of experts"),
        ("glm_moe_dsa", {"indexer_types": ["full", "shared"]}, "indexer_types full"),
        ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok 2, got 3"),
        ("gpt_oss", {"swiglu_alpha": 1.0}, "swiglu_alpha 1.702"),
        ("llama4", {"layer_types": ["full_attention"] * 3}, "layer_types chunked_attention"),
    ],
)
def test_what_the_mirrors_lack_is_refused_by_name(name, fields, message):
    with pytest.raises(CheckpointError, match=message):
        read_config(configuration(name, **fields))
