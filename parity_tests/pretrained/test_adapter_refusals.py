"""LoRA adapters that cannot be read, merged or saved: one sentence that says which, before anything is computed."""

import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_attention
import torch_attention
from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from attention_bridge.pretrained.adapters import (
    apply_adapter,
    base_of,
    is_adapter,
    merged,
    read_adapter,
    save_adapter,
)
from parity_tests.helpers.adapters import RANK, Sample, sample

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
PREFIX = "base_model.model."
PATH = PREFIX + "model.layers.0.self_attn.q_proj."


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama and an adapter of its queries and values."""
    return sample("llama", tmp_path_factory.mktemp("llama"), target_modules=["q_proj", "v_proj"])


@pytest.fixture
def copied(llama, tmp_path):
    """An editable copy of the adapter, with a function that replaces its tensors."""
    shutil.copytree(llama.adapter, tmp_path / "adapter")
    return Sample("llama", llama.base, tmp_path / "adapter")


class TestRefusals:
    """Bad input: one sentence that says which, before anything is computed."""

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"peft_type": "IA3"}, "must have peft_type LORA, the only method supported, got 'IA3'"),
            ({"peft_type": None}, "must have peft_type LORA"),
            ({"lora_bias": True}, "has lora_bias=True, which is not supported: the update would have a bias"),
            ({"trainable_token_indices": [1, 2]}, r"has trainable_token_indices=\[1, 2\], which is not"),
            ({"layer_replication": [[0, 2], [1, 2]]}, "has layer_replication="),
            ({"alora_invocation_tokens": [3]}, "the update would apply only behind these tokens"),
            ({"megatron_config": {"x": 1}}, "has megatron_config="),
            ({"target_parameters": ["experts"]}, "has target_parameters="),
            ({"use_qalora": True}, "has use_qalora=True"),
            ({"use_bdlora": {"nblocks": 2}}, "has use_bdlora="),
            ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
            ({"init_lora_weights": "olora"}, "changes the base's weights"),
            ({"use_newlora": True}, "has use_newlora=True, a field that is not known"),
            ({"r": 0}, "must have a positive integer as r, got 0"),
            ({"r": "3"}, "must have a positive integer as r"),
            ({"lora_alpha": None}, "must have a number as lora_alpha, got None"),
            ({"r": 4}, r"q_proj has rank 4, but its factors have shapes \(3, 20\) and \(24, 3\)"),
            (
                {"rank_pattern": {"(": 3}},
                "must have regular expressions with ranks as rank_pattern",
            ),
            (
                {"alpha_pattern": {"q_proj": "4"}},
                "must have regular expressions with numbers as alpha_pattern",
            ),
            ({"rank_pattern": {"1.self_attn.v_proj": 5}}, "layers.1.self_attn.v_proj has rank 5"),
            ({"target_modules": 3}, "must have a list of names as target_modules"),
            ({"target_modules": "*"}, "must have a regular expression as target_modules"),
            ({"target_modules": ["q_proj"]}, "v_proj has an update, but target_modules"),
            ({"exclude_modules": ["v_proj"]}, "v_proj has an update, but target_modules"),
            ({"layers_to_transform": [0]}, "layers.1.self_attn.q_proj has an update, but target_modules"),
            ({"layers_to_transform": "0"}, "must have a list of layer numbers as layers_to_transform"),
            ({"bias": "some"}, "must have none, all or lora_only as bias"),
            ({"use_rslora": "yes"}, "must have true or false as use_rslora"),
            ({"use_dora": True}, "q_proj must have lora_magnitude_vector beside"),
        ],
    )
    def test_configuration_is_refused_by_name(self, copied, fields, expected):
        copied.change(**fields)
        with pytest.raises(CheckpointError) as error:
            read_adapter(copied.adapter)
        assert re.search(expected, error.value.whole)
        assert "\n" not in error.value.whole

    @pytest.mark.parametrize(
        "fields",
        [
            {"use_newlora": None, "other": False, "third": [], "fourth": {}},
            {"init_lora_weights": "gaussian", "lora_dropout": 0.3, "inference_mode": False},
            {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
            {"task_type": "CAUSAL_LM", "peft_version": "0.9.0", "revision": "main"},
            {"megatron_core": "megatron.core", "runtime_config": {"ephemeral_gpu_offload": True}},
            {"target_modules": None},
            {
                "merge_weights": True,
                "enable_lora": None,
                "corda_config": {"x": 1},
                "lora_ga_config": {"y": 2},
            },
            {"target_modules": "all-linear", "layers_to_transform": []},
            {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        ],
    )
    def test_fields_that_change_nothing_are_read(self, llama, copied, fields):
        copied.change(**fields)
        expected, found = read_adapter(llama.adapter), read_adapter(copied.adapter)
        assert {k: u.scale for k, u in found.updates.items()} == {
            k: u.scale for k, u in expected.updates.items()
        }

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda x: x.pop(PATH + "lora_B.weight"), "q_proj must have lora_B beside .*lora_A.weight"),
            (
                lambda x: x.update({PATH + "lora_A.default.weight": x.pop(PATH + "lora_A.weight")}),
                "has a tensor .*lora_A.default.weight, which is no part of LoRA as PEFT saves it",
            ),
            (
                lambda x: x.update({PATH + "lora_A.weight": np.ones((3, 20, 1, 1), np.float32)}),
                "q_proj must be a linear layer or an embedding",
            ),
            (
                lambda x: x.update(
                    {PATH + "lora_A.weight": np.ones((3, 24), np.float32)},
                ),
                r"has an update of shape \(24, 24\) for .*q_proj.weight, which has shape \(24, 20\)",
            ),
            (
                lambda x: x.update({PATH + "lora_magnitude_vector": np.ones(24, np.float32)}),
                "is a magnitude of DoRA, but use_dora is false",
            ),
            (
                lambda x: x.update({PREFIX + "model.layers.7.norm.weight": np.ones(3, np.float32)}),
                "has a tensor .*, but its base has no model.layers.7.norm.weight that it could replace",
            ),
            (
                lambda x: [
                    x.update({k.replace("layers.1", "layers.5"): x.pop(k)}) for k in [*x] if "s.1" in k
                ],
                "has an update of model.layers.5.self_attn.q_proj, but its base has no such weight",
            ),
        ],
    )
    def test_tensor_without_a_counterpart_is_a_fault(self, copied, change, expected):
        file = copied.adapter / "adapter_model.safetensors"
        tensors = checkpoints.read(file)
        change(tensors)
        checkpoints.write(file, tensors)
        for merge in (True, False):
            with pytest.raises(CheckpointError) as error:
                load_pretrained(copied.base, "torch", adapter=copied.adapter, merge=merge)
            assert not merge or re.search(expected, error.value.whole)
            assert "\n" not in error.value.whole

    def test_swapped_factors_are_a_fault(self, copied):
        """A negative control."""
        file = copied.adapter / "adapter_model.safetensors"
        tensors = checkpoints.read(file)
        a, b = tensors[PATH + "lora_A.weight"], tensors[PATH + "lora_B.weight"]
        tensors |= {PATH + "lora_A.weight": b.T.copy(), PATH + "lora_B.weight": a.T.copy()}
        checkpoints.write(file, tensors)
        with pytest.raises(CheckpointError, match=r"has an update of shape \(20, 24\) for"):
            load_pretrained(copied.base, "torch", adapter=copied.adapter)
        with pytest.raises(
            CheckpointError, match=r"has an update of shape \(20, 24\) for layers.0.attention.q_proj"
        ):
            load_pretrained(copied.base, "torch", adapter=copied.adapter, merge=False)

    def test_directory_names_its_base(self, llama, copied, tmp_path):
        assert is_adapter(llama.adapter)
        assert not is_adapter(llama.base)
        shutil.copytree(llama.base, tmp_path / "both")
        shutil.copytree(llama.adapter, tmp_path / "both", dirs_exist_ok=True)
        assert not is_adapter(tmp_path / "both")
        assert base_of(llama.adapter) == str(llama.base)
        copied.change(base_model_name_or_path="some/model", revision="v2")
        assert base_of(copied.adapter) == "some/model@v2"
        copied.change(base_model_name_or_path="/no/such/model")
        with pytest.raises(
            CheckpointError, match="names the base model /no/such/model, which does not exist here"
        ):
            load_pretrained(copied.adapter, "torch")
        copied.change(base_model_name_or_path=None)
        with pytest.raises(
            CheckpointError, match="names no base model in base_model_name_or_path: load the base"
        ):
            load_pretrained(copied.adapter, "torch")
        (copied.adapter / "adapter_model.safetensors").unlink()
        with pytest.raises(
            CheckpointError, match=r"has neither adapter_model.safetensors nor adapter_model.bin"
        ):
            read_adapter(copied.adapter)
        with pytest.raises(CheckpointError, match=r"is no adapter: it has no adapter_config.json"):
            read_adapter(tmp_path)

    def test_magnitudes_of_an_embedding_kept_apart_are_refused(self, tmp_path):
        made = sample("llama", tmp_path, target_modules=["embed_tokens"], use_dora=True)
        with pytest.raises(CheckpointError, match=r"embedding model.embed_tokens: merge the adapter instead"):
            load_pretrained(made.base, "torch", adapter=made.adapter, merge=False)

    def test_quantised_base_is_refused(self, tmp_path):
        made = sample("llama", tmp_path, target_modules=["embed_tokens"])
        tensors = checkpoints.read(made.base)
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].astype(np.int8)
        checkpoints.write(made.base / "model.safetensors", tensors)
        (made.adapter / "adapter_model.safetensors").write_bytes(
            _without(made.adapter, "base_layer", tmp_path).read_bytes()
        )
        with (
            checkpoints.open(made.base) as base,
            pytest.raises(CheckpointError, match="is int8; dequantise the base first"),
        ):
            merged(base, read_adapter(made.adapter))

    def test_factors_that_differ_cannot_be_saved_for_a_fused_weight(self, tmp_path):
        made = sample("gpt2", tmp_path, target_modules=["c_attn"])
        reading, adapter = read_pretrained(made.base).reading, read_adapter(made.adapter)
        model = load_pretrained(made.base, "torch", adapter=made.adapter, merge=False)
        layer = model.layers[0].attention.k_proj
        layer.lora_A = torch.nn.Parameter(layer.lora_A + 1)
        with pytest.raises(InputError, match=r"whose lora_A must be the same, but they differ: merge_lora"):
            save_adapter(model, tmp_path / "back", adapter, reading.layout, reading.axes)
        other = torch_attention.add_lora(load_pretrained(made.base, "torch"), RANK, alpha=1.0)
        with pytest.raises(
            InputError, match=r"hf.gpt2 has one weight for several layers, .*k_proj.*adapt them all"
        ):
            save_adapter(other, tmp_path / "back", {}, reading.layout, reading.axes)
        torch_attention.merge_lora(other)
        with pytest.raises(InputError, match="this Decoder has no LoRALinear layers"):
            save_adapter(other, tmp_path / "back", {}, reading.layout, reading.axes)
        assert not (tmp_path / "back").exists()

    def test_adapter_of_another_rank_scale_or_set_of_layers_is_not_saved(self, llama, tmp_path):
        reading, adapter = read_pretrained(llama.base).reading, read_adapter(llama.adapter)
        for options, expected in (
            ({"alpha": 9.0}, "must have the adapter's scale 1.333"),
            (
                {"alpha": 4.0, "targets": ("q_proj", "v_proj", "up_proj")},
                "the model has an update of .*up_proj",
            ),
            ({"alpha": 4.0, "targets": ("q_proj",)}, "has an update of .*v_proj, but the model has none"),
        ):
            model = torch_attention.add_lora(load_pretrained(llama.base, "torch"), RANK, **options)
            with pytest.raises(InputError, match=expected):
                save_adapter(model, tmp_path / "back", adapter, reading.layout, reading.axes)

    @pytest.mark.parametrize("framework", ["torch", "jax"])
    @pytest.mark.parametrize("config", [True, False])
    def test_model_with_updates_is_not_saved_as_a_checkpoint(self, llama, tmp_path, framework, config):
        model = load_pretrained(llama.base, framework, adapter=llama.adapter, merge=False)
        with pytest.raises(
            InputError, match=r"this LanguageModel has an update at layers.0.*: merge_lora\(model\)"
        ):
            save_pretrained(model, tmp_path / "back", llama.base if config else None)
        assert not (tmp_path / "back").exists()
        {"torch": torch_attention, "jax": jax_attention}[framework].merge_lora(model)
        save_pretrained(model, tmp_path / "back", llama.base if config else None)

    def test_adapter_of_another_model_is_refused(self, llama, tmp_path):
        other = sample("gpt2", tmp_path)
        with pytest.raises(CheckpointError, match="it adapts another model"):
            load_pretrained(other.base, "torch", adapter=llama.adapter)
        reading = read_pretrained(other.base).reading
        with pytest.raises(CheckpointError, match=r"which is no weight of a layer in the layout hf.gpt2"):
            apply_adapter(
                load_pretrained(other.base, "torch"),
                read_adapter(llama.adapter),
                reading.layout,
                reading.axes,
            )


def _without(directory, part, scratch):
    """The adapter's tensors without those whose names contain a word, in a file elsewhere."""
    tensors = checkpoints.read(directory / "adapter_model.safetensors")
    checkpoints.write(scratch / "less.safetensors", {k: x for k, x in tensors.items() if part not in k})
    return scratch / "less.safetensors"
