"""LoRA adapters of PEFT: merged as PEFT merges them, kept apart with PEFT's outputs, trained, and saved for PEFT."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from attention_bridge import checkpoints
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from attention_bridge.pretrained.adapters import (
    merged,
    merging,
    read_adapter,
    save_adapter,
)
from attention_bridge.pretrained.adapters.input_axis import axis_of, input_axis
from attention_bridge.weights import convert
from attention_bridge.weights.leaves import to_numpy
from parity_tests.helpers import families
from parity_tests.helpers.adapters import ALPHA, RANK, sample

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
PREFIX = "base_model.model."
PATH = PREFIX + "model.layers.0.self_attn.q_proj."
SEVERAL = {  # options of PEFT for which every merged tensor is compared
    "linear": ("llama", {}),
    "16 bits": ("llama", {"dtype": torch.bfloat16}),
    "half": ("llama", {"dtype": torch.float16}),
    "double": ("llama", {"dtype": torch.float64}),
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": (
        "llama",
        {
            "rank_pattern": {"layers.1.self_attn.q_proj": 4, "down_proj": 2},
            "alpha_pattern": {r".*\.[01]\.mlp.up_proj": 7, "v_proj": 1},
            "use_rslora": True,
        },
    ),
    "negative scale": ("llama", {"lora_alpha": -3}),
    "some layers": ("llama", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}),
    "expression": ("llama", {"target_modules": r".*\.0\..*_proj", "exclude_modules": ["k_proj"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, 16 bits": ("llama", {"target_modules": ["embed_tokens"], "dtype": torch.bfloat16}),
    "whole modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "whole modules, 16 bits": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "dtype": torch.bfloat16},
    ),
    "biases": ("bert", {"target_modules": ["query", "value"], "bias": "all"}),
    "biases of the layers": ("bert", {"target_modules": ["query", "value"], "bias": "lora_only"}),
    "transposed": ("gpt2", {"fan_in_fan_out": True}),
    "transposed, without the flag": ("gpt2", {}),
    "tied embedding": ("gpt2", {"target_modules": ["wte", "c_proj"]}),
    "fused": ("gpt_neox", {"target_modules": ["query_key_value"]}),
    "dora": ("llama", {"use_dora": True}),
    "dora, 16 bits": ("llama", {"use_dora": True, "dtype": torch.bfloat16}),
    "dora, transposed": ("gpt2", {"use_dora": True}),
}
# transformers keeps the experts of a layer in one parameter, which PEFT would adapt too.
TARGETS = {"deepseek_v3": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]}
FAMILIES = [
    pytest.param(name, framework, marks=() if framework == "torch" or name == "llama" else pytest.mark.slow)
    for framework in ARRAYS
    for name in (families.SHORT if framework == "torch" else ("bert", "gpt2", "gpt_neox", "llama"))
]


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def outputs(name, model, framework):
    return families.ours(families.CASES[name], model, ARRAYS[framework])


def bits(tensors):
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


class TestMerged:
    @pytest.mark.parametrize("with_layout", [True, False])
    @pytest.mark.parametrize("option", SEVERAL)
    def test_every_tensor_has_the_bits_of_the_model_that_peft_merges(self, tmp_path, option, with_layout):
        name, options = SEVERAL[option]
        made = sample(name, tmp_path, **options)
        layout = read_pretrained(made.base).reading.layout if with_layout else None
        expected = made.merged()
        with checkpoints.open(made.base) as base:
            names = list(base.specs)
            before = bits(dict(base.items()))
            found = merged(base, read_adapter(made.adapter), layout)
            assert list(found.specs) == names
            after = bits(dict(found.items()))
        wanted = {key: to_numpy(key, expected[key.replace("embed_out", "lm_head")]) for key in names}
        assert after == bits(wanted)
        assert sum(after[key] != before[key] for key in names) >= 1

    @pytest.mark.parametrize(("name", "framework"), FAMILIES)
    def test_outputs_of_both_forms_are_those_of_peft(self, tmp_path, name, framework):
        made = sample(name, tmp_path, target_modules=TARGETS.get(name, "all-linear"))
        expected = made.reference()
        bound = 2 * families.bound(made.load().get_base_model())
        plain = outputs(name, load_pretrained(made.base, framework), framework)
        for merge in (True, False):
            model = load_pretrained(made.base, framework, adapter=made.adapter, merge=merge)
            found = outputs(name, model, framework)
            for part, reference in expected.items():
                assert error(found[part], reference) <= bound, (merge, part)
                assert error(plain[part], reference) > 100 * bound, part

    @pytest.mark.parametrize(
        ("saved", "wanted"),
        [(torch.bfloat16, "float32"), (torch.float32, "bfloat16"), (torch.float32, "float16")],
    )
    def test_weights_take_the_requested_dtype_before_the_update_is_added(self, tmp_path, saved, wanted):
        """As for a base that transformers loads in this dtype."""
        made = sample("llama", tmp_path, dtype=saved, target_modules=["v_proj"], modules_to_save=["lm_head"])
        read = read_pretrained(made.base, dtype=wanted, adapter=read_adapter(made.adapter))
        expected = dataclasses.replace(made, dtype=getattr(torch, wanted)).merged()
        layout, axes = read.reading.layout, read.reading.axes
        found, _ = convert(read.weights, "torch_attention", layout, axes)
        for key, x in found.items():
            assert x.tobytes() == to_numpy(key, expected[key]).tobytes(), key

    @pytest.mark.parametrize("modules", [None, ["embed_tokens", "lm_head"]])
    def test_vocabulary_may_have_grown(self, tmp_path, modules):
        """PEFT then saves the embeddings as a whole; the configuration needs the new size."""
        made = sample("llama", tmp_path, target_modules=["q_proj"], modules_to_save=modules, vocab_size=33)
        options = {"adapter": made.adapter, "config": {"vocab_size": 33}}
        expected = made.reference()["output"]
        bound = 2 * families.bound(made.load().get_base_model())
        for merge in (True, False):
            model = load_pretrained(made.base, "torch", merge=merge, **options)
            assert error(outputs("llama", model, "torch")["output"], expected) <= bound
        reading = read_pretrained(made.base).reading
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), reading.layout)
        file = "adapter_model.safetensors"
        assert (tmp_path / "back" / file).read_bytes() == (made.adapter / file).read_bytes()

    def test_tensors_are_merged_one_at_a_time(self, tmp_path):
        made = sample("llama", tmp_path)
        fetched = []
        with checkpoints.open(made.base) as base:

            def fetch(name):
                fetched.append(name)
                return base.fetch(name)

            found = merged(dataclasses.replace(base, fetch=fetch), read_adapter(made.adapter))
            assert fetched == []
            name = "model.layers.1.mlp.up_proj.weight"
            assert not np.array_equal(found.read(name), base.read(name))
            assert fetched == [name]

    @pytest.mark.parametrize("option", ["linear", "dora", "dora, transposed", "embedding"])
    def test_merged_tensors_without_pytorch_differ_in_the_last_bits_only(self, tmp_path, monkeypatch, option):
        name, options = SEVERAL[option]
        made = sample(name, tmp_path, **options)
        expected = made.merged()
        monkeypatch.setattr(merging, "find_spec", lambda name: None)
        monkeypatch.setattr(merging, "to_torch", None)
        with checkpoints.open(made.base) as base:
            for key, x in merged(base, read_adapter(made.adapter)).items():
                np.testing.assert_allclose(x, expected[key].numpy(), rtol=2e-6, atol=1e-6)

    def test_single_experts_may_have_updates(self, tmp_path):
        """As older versions of PEFT save them, when each expert was a module."""
        made = sample("deepseek_v3", tmp_path, target_modules=["o_proj"])
        base = checkpoints.read(made.base)
        name = "model.layers.1.mlp.experts.3.down_proj"
        rng = np.random.default_rng(6)
        out, into = base[f"{name}.weight"].shape
        a, b = rng.standard_normal((RANK, into), np.float32), rng.standard_normal((out, RANK), np.float32)
        file = made.adapter / "adapter_model.safetensors"
        more = {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
        checkpoints.write(file, {**checkpoints.read(file), **more})
        made.change(target_modules=["o_proj", "down_proj"])
        with checkpoints.open(made.base) as opened:
            found = merged(opened, read_adapter(made.adapter)).read(f"{name}.weight")
        np.testing.assert_allclose(found, base[f"{name}.weight"] + b @ a * ALPHA / RANK, rtol=1e-5, atol=1e-6)
        models = [
            load_pretrained(made.base, "torch", adapter=made.adapter, merge=merge) for merge in (True, False)
        ]
        results = [outputs("deepseek_v3", model, "torch")["output"] for model in models]
        assert error(*results) < 1e-5


class TestApart:
    @pytest.mark.parametrize(
        ("option", "framework"),
        [
            pytest.param(option, framework, marks=() if framework == "torch" else pytest.mark.slow)
            for framework in ARRAYS
            for option in SEVERAL
            if (option, framework) != ("double", "jax")
        ],
    )
    def test_untrained_adapter_is_saved_byte_for_byte(self, tmp_path, option, framework):
        name, options = SEVERAL[option]
        made = sample(name, tmp_path, **options)
        reading = read_pretrained(made.base).reading
        model = load_pretrained(made.base, framework, adapter=made.adapter, merge=False)
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), reading.layout, reading.axes)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            assert (tmp_path / "back" / file).read_bytes() == (made.adapter / file).read_bytes()

    @pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("option", ["embedding", "tied embedding", "dora, transposed", "whole modules"])
    def test_outputs_are_those_of_peft(self, tmp_path, option, framework):
        """Before PEFT merges: a tied output layer has no update."""
        name, options = SEVERAL[option]
        made = sample(name, tmp_path, **options)
        expected = made.reference()["output"]
        model = load_pretrained(made.base, framework, adapter=made.adapter, merge=False)
        bound = 2 * families.bound(made.load().get_base_model())
        assert error(outputs(name, model, framework)["output"], expected) <= bound

    def test_update_of_a_head_that_the_model_lacks_is_warned_of_and_saved_again(self, tmp_path):
        made = sample("roberta without a pooler, tanh", tmp_path)
        body = {"adapter": made.adapter, "merge": False, "task": "feature-extraction"}
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model = load_pretrained(made.base, "torch", **body)
        assert "has an update of lm_head.dense, a head that this Encoder does not" in str(warned[-1].message)
        save_adapter(model, tmp_path / "back")
        file = "adapter_model.safetensors"
        assert (tmp_path / "back" / file).read_bytes() == (made.adapter / file).read_bytes()

    def test_untrained_adapter_of_a_narrower_model_keeps_its_bytes(self, tmp_path):
        made = sample("llama", tmp_path, target_modules=["q_proj"], modules_to_save=["lm_head"])
        read = read_pretrained(made.base)
        model = load_pretrained(made.base, "torch", dtype="bf16", adapter=made.adapter, merge=False)
        assert model.head.weight.dtype == torch.bfloat16
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), read.reading.layout)
        file = "adapter_model.safetensors"
        assert (tmp_path / "back" / file).read_bytes() == (made.adapter / file).read_bytes()
        model.head.weight.data.fill_(0.5)
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), read.reading.layout)
        changed = read_adapter(tmp_path / "back").tensors["base_model.model.lm_head.weight"]
        assert changed.dtype == np.float32
        assert (changed == 0.5).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_bin_file_is_read_and_saved_with_its_names_and_dtypes(self, tmp_path, dtype):
        made = sample("gpt2", tmp_path, safe=False)
        given = torch.load(made.adapter / "adapter_model.bin")
        torch.save({key: x.to(dtype) for key, x in given.items()}, made.adapter / "adapter_model.bin")
        adapter, reading = read_adapter(made.adapter), read_pretrained(made.base).reading
        model = load_pretrained(made.base, "torch", adapter=made.adapter, merge=False)
        save_adapter(model, tmp_path / "back", adapter, reading.layout, reading.axes)
        back = torch.load(tmp_path / "back" / "adapter_model.bin")
        assert list(back) == list(given)
        assert all(
            torch.equal(back[key], x.to(dtype)) and back[key].dtype == dtype for key, x in given.items()
        )

    @pytest.mark.parametrize("framework", ARRAYS)
    def test_layers_of_one_fused_weight_share_their_first_factor(self, tmp_path, framework):
        made = sample("gpt2", tmp_path, target_modules=["c_attn"])
        model = load_pretrained(made.base, framework, adapter=made.adapter, merge=False)
        attention = model.layers[1].attention
        assert attention.q_proj.lora_A is attention.k_proj.lora_A is attention.v_proj.lora_A
        adapter = read_adapter(made.adapter)
        b = adapter.updates["transformer.h.1.attn.c_attn"].b
        parts = [attention.q_proj.lora_B, attention.k_proj.lora_B, attention.v_proj.lora_B]
        assert np.concatenate([_numpy(each) for each in parts]).tobytes() == b.tobytes()

    def test_dropout_of_the_adapter_is_sampled_in_training_for_each_layer_anew(self, tmp_path):
        made = sample("llama", tmp_path, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
        for framework, array in ARRAYS.items():
            model = load_pretrained(made.base, framework, adapter=made.adapter, merge=False)
            layers = [layer.attention.q_proj.dropout for layer in model.layers]
            x = array(np.ones((4, 50), np.float32))
            assert all((layer(x) == x).all() for layer in layers)
            model.train()
            first, second = (_numpy_of(layer(x)) for layer in layers)
            assert not np.array_equal(first, second)
            assert 0.3 < (first == 0).mean() < 0.7
            assert set(np.unique(first)) == {0.0, 2.0}

    def test_forgotten_scale_and_rows_that_are_not_reordered_are_detected(self, tmp_path):
        """Negative controls: for heads whose rows alternate in the fused weight, thirds are the wrong rows."""
        made = sample("gpt_neox", tmp_path, target_modules=["query_key_value"])
        expected = made.reference()["output"]
        adapter = read_adapter(made.adapter)

        def found(model):
            return error(outputs("gpt_neox", model, "torch")["output"], expected)

        model = load_pretrained(made.base, "torch", adapter=made.adapter, merge=False)
        assert found(model) < 1e-6
        for n, layer in enumerate(model.layers):
            b = adapter.updates[f"gpt_neox.layers.{n}.attention.query_key_value"].b
            for name, rows in zip("qkv", np.split(b, 3), strict=True):
                getattr(layer.attention, f"{name}_proj").lora_B.data.copy_(torch.from_numpy(rows))
        assert found(model) > 1e-3
        made.change(lora_alpha=RANK)
        for merge in (True, False):
            assert found(load_pretrained(made.base, "torch", adapter=made.adapter, merge=merge)) > 1e-3

    @pytest.mark.parametrize("name", families.SHORT)
    def test_rules_of_every_family_keep_the_inputs_of_adapted_weights_whole(self, tmp_path, name):
        made = sample(name, tmp_path, target_modules=TARGETS.get(name, "all-linear"))
        reading = read_pretrained(made.base).reading
        for update in read_adapter(made.adapter).updates.values():
            axis = input_axis(reading.layout, update.weight)
            sizes = (len(update.b), update.a.shape[1])
            probe = np.broadcast_to(np.arange(sizes[1]), sizes)
            found, _ = convert(
                {update.weight: probe if axis else probe.T}, reading.layout, "torch_attention", reading.axes
            )
            rows = [x for key, x in found.items() if key.endswith("weight")]
            assert sum(map(len, rows)) == sizes[0]
            assert all((x == np.arange(sizes[1])).all() for x in rows)

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("... -> ...", 1),
            ("i o -> o i", 0),
            ("i (three o) -> three o i", 0),
            ("(h three d) e -> three (h d) e", 1),
            ("(g (n q k v) d) ... -> (g n d) ..., (g d) ..., (g d) ...", 1),
            ("o (half two) -> o (two half)", None),
            ("(i o) -> o i", None),
            ("length i o -> o i length", None),
        ],
    )
    def test_input_axis_of_a_pattern(self, pattern, expected):
        assert axis_of(pattern) == expected


def _numpy_of(x):
    return families.numpy_of({"x": x})["x"]


def _numpy(parameter):
    return np.asarray(parameter.detach() if isinstance(parameter, torch.Tensor) else parameter[...])


TIED = {
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            vocab_size=31,
            hidden_size=24,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            tie_word_embeddings=True,
        ),
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            vocab_size=31, n_embd=24, n_head=4, n_layer=2, n_positions=16, bos_token_id=0, eos_token_id=0
        ),
        {"target_modules": ["c_attn"], "modules_to_save": ["wte"], "fan_in_fan_out": True},
    ),
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", TIED)
def test_head_tied_to_a_replaced_embedding_keeps_the_base_s_values_as_in_peft(name, merge, tmp_path):
    kind, config, options = TIED[name]
    torch.manual_seed(3)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied embeddings
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **options)).eval()
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora" in key or "modules_to_save" in key:
                    parameter.normal_(0.0, 0.3)
        adapted.save_pretrained(tmp_path / "adapter")
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = adapted(tokens).logits
    ours = load_pretrained(tmp_path / "base", "torch", adapter=tmp_path / "adapter", merge=merge).eval()
    assert torch.allclose(ours(tokens).logits, expected, atol=1e-5)
    if merge:
        save_pretrained(ours, tmp_path / "merged")
        assert torch.allclose(
            load_pretrained(tmp_path / "merged", "torch")(tokens).logits, expected, atol=1e-5
        )
