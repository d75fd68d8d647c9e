"""LoRA adapters of PEFT: merged as PEFT merges them, kept apart with PEFT's outputs, trained, and saved for PEFT."""

import dataclasses
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained import load_pretrained, read_pretrained
from attention_bridge.pretrained.adapters import (
    apply_adapter,
    base_of,
    is_adapter,
    merged,
    merging,
    read_adapter,
    save_adapter,
)
from attention_bridge.pretrained.adapters.input_axis import axis_of, input_axis
from attention_bridge.weights import convert
from attention_bridge.weights.leaves import to_numpy
from parity_tests.helpers import families
from parity_tests.helpers.adapters import ALPHA, RANK, Sample, quiet, sample

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
            if "embedding" not in option and (option, framework) != ("double", "jax")
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


class TestTraining:
    STEPS = 20

    def batches(self):
        rng = np.random.default_rng(4)
        return np.tile(rng.integers(3, families.VOCAB, (2, 3, families.LENGTH)), (self.STEPS // 2, 1, 1))

    def reference(self, made):
        """The losses of PEFT's own training, and the trained model."""
        with quiet():
            model = made.load(is_trainable=True)
        optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], 0.02)
        losses = []
        for tokens in map(torch.from_numpy, self.batches()):
            losses.append(self.step(optimizer, model(tokens[:, :-1]).logits, tokens))
        return losses, model

    def step(self, optimizer, logits, tokens):
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    @pytest.mark.parametrize(("name", "options"), [("gpt2", {}), ("gpt_neox", {"use_dora": True})])
    def test_losses_are_those_of_peft_and_the_result_is_read_by_peft(self, tmp_path, name, options):
        """Also for fused weights: one shared factor is trained as PEFT trains it."""
        made = sample(name, tmp_path, **options)
        expected, trained = self.reference(made)
        model = load_pretrained(made.base, "torch", adapter=made.adapter, merge=False).train()
        before = {key: x.clone() for key, x in model.state_dict().items()}
        optimizer = torch.optim.AdamW(torch_attention.lora_parameters(model).values(), 0.02)
        losses = [
            self.step(optimizer, model(tokens[:, :-1]).output, tokens)
            for tokens in map(torch.from_numpy, self.batches())
        ]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        assert losses[-1] < 0.95 * losses[1]
        for key, x in model.state_dict().items():
            assert torch.equal(x, before[key]) == ("lora" not in key), key
        reading = read_pretrained(made.base).reading
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), reading.layout, reading.axes)
        tokens = torch.from_numpy(self.batches()[0])
        found = made.load(tmp_path / "back")(tokens).logits
        torch.testing.assert_close(found, trained(tokens).logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found, model.eval()(tokens).output, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_losses_in_jax_are_those_of_peft_and_the_result_is_read_by_peft(self, tmp_path):
        made = sample("gpt2", tmp_path)
        expected, _ = self.reference(made)
        model = load_pretrained(made.base, "jax", adapter=made.adapter, merge=False)
        model.train()
        before = nnx.to_flat_state(nnx.state(nnx.clone(model), nnx.Not(nnx.LoRAParam)))
        optimizer = nnx.Optimizer(model, optax.adamw(0.02, weight_decay=0.01), wrt=nnx.LoRAParam)

        def loss_of(model, tokens):
            logits = model(tokens[:, :-1]).output
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        @nnx.jit
        def step(model, optimizer, tokens):
            loss, grads = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, nnx.LoRAParam))(model, tokens)
            optimizer.update(model, grads)
            return loss

        losses = [float(step(model, optimizer, tokens)) for tokens in map(jnp.asarray, self.batches())]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.LoRAParam))):
            assert (leaf[...] == dict(before)[path][...]).all(), path
        reading = read_pretrained(made.base).reading
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), reading.layout, reading.axes)
        tokens = self.batches()[0]
        found = made.load(tmp_path / "back")(torch.from_numpy(tokens)).logits
        model.eval()
        np.testing.assert_allclose(found.detach(), model(jnp.asarray(tokens)).output, rtol=1e-4, atol=1e-5)


class TestNew:
    """Updates of `add_lora`, saved for PEFT."""

    @pytest.mark.parametrize("framework", ARRAYS)
    @pytest.mark.parametrize("options", [{}, {"use_rslora": True, "use_dora": True}])
    def test_new_updates_are_read_by_peft(self, tmp_path, framework, options):
        made = sample("llama", tmp_path)
        model = load_pretrained(made.base, framework)
        package = {"torch": torch_attention, "jax": jax_attention}[framework]
        more = {"rngs": nnx.Rngs(0)} if framework == "jax" else {}
        package.add_lora(model, 2, alpha=3.0, **more, **options)
        package.add_lora(model, 4, alpha=5.5, targets=("layers.0.ffn.up_proj",), **more, **options)
        rng = np.random.default_rng(5)
        for _, layer in package.lora.lora_layers(model):
            drawn = rng.standard_normal(layer.lora_B.shape, np.float32)
            if framework == "torch":
                layer.lora_B.data.copy_(torch.from_numpy(drawn))
            else:
                layer.lora_B[...] = jnp.asarray(drawn)
        reading = read_pretrained(made.base).reading
        base = {"base_model_name_or_path": str(made.base), "task_type": "CAUSAL_LM"}
        save_adapter(model, tmp_path / "new", base, reading.layout, reading.axes)
        case = families.CASES["llama"]
        expected = families.reference(case, made.load(tmp_path / "new").get_base_model())["output"]
        assert error(outputs("llama", model, framework)["output"], expected) < 2e-6
        again = load_pretrained(tmp_path / "new", framework)
        assert error(outputs("llama", again, framework)["output"], expected) < 2e-6
        fields = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
        assert (fields["r"], fields["lora_alpha"], fields["task_type"]) == (2, 3, "CAUSAL_LM")
        assert len(fields["rank_pattern"]) == len(fields["alpha_pattern"]) == 1

    def test_transposed_and_fused_layers_are_read_by_peft_if_they_share_their_factor(self, tmp_path):
        made = sample("gpt2", tmp_path)
        model = load_pretrained(made.base, "torch")
        torch_attention.add_lora(model, 2, alpha=3.0, targets=("q_proj", "k_proj", "v_proj", "up_proj"))
        for layer in model.layers:
            attention = layer.attention
            attention.k_proj.lora_A = attention.v_proj.lora_A = attention.q_proj.lora_A
        for parameter in torch_attention.lora_parameters(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        reading = read_pretrained(made.base).reading
        save_adapter(model, tmp_path / "new", {}, reading.layout, reading.axes, prefix="transformer.")
        case = families.CASES["gpt2"]
        expected = families.reference(case, made.load(tmp_path / "new").get_base_model())["output"]
        assert error(outputs("gpt2", model, "torch")["output"], expected) < 2e-6


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
            ({"lora_alpha": None}, "must have a positive number as lora_alpha, got None"),
            ({"r": 4}, r"q_proj has rank 4, but its factors have shapes \(3, 20\) and \(24, 3\)"),
            (
                {"rank_pattern": {"(": 3}},
                "must have regular expressions with positive numbers as rank_pattern",
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

    def test_embedding_kept_apart_and_quantised_base_are_refused(self, tmp_path):
        made = sample("llama", tmp_path, target_modules=["embed_tokens"])
        with pytest.raises(CheckpointError, match=r"embedding model.embed_tokens: merge the adapter instead"):
            load_pretrained(made.base, "torch", adapter=made.adapter, merge=False)
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

    def test_adapter_of_another_model_is_refused(self, llama, tmp_path):
        other = sample("gpt2", tmp_path)
        with pytest.raises(CheckpointError, match="it adapts another model"):
            load_pretrained(other.base, "torch", adapter=llama.adapter)
        reading = read_pretrained(other.base).reading
        with pytest.raises(
            CheckpointError, match=r"which is no weight of a linear layer in the layout hf.gpt2"
        ):
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


def _numpy(parameter):
    return np.asarray(parameter.detach() if isinstance(parameter, torch.Tensor) else parameter[...])
