"""LoRA adapters in training: PEFT's losses in both frameworks, and results that PEFT reads."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.pretrained import load_pretrained, read_pretrained
from attention_bridge.pretrained.adapters import (
    read_adapter,
    save_adapter,
)
from parity_tests.helpers import families
from parity_tests.helpers.adapters import quiet, sample

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def outputs(name, model, framework):
    return families.ours(families.CASES[name], model, ARRAYS[framework])


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

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("gpt2", {}),
            ("gpt_neox", {"use_dora": True}),
            ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}),
            ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
        ],
    )
    def test_losses_are_those_of_peft_and_the_result_is_read_by_peft(self, tmp_path, name, options):
        """Also for fused weights: one shared factor is trained as PEFT trains it."""
        made = sample(name, tmp_path, **options)
        expected, trained = self.reference(made)
        model = load_pretrained(made.base, "torch", adapter=made.adapter, merge=False).train()
        whole = {n for n, x in model.named_parameters() if x.requires_grad and "lora" not in n}
        assert bool(whole) == bool({"bias", "modules_to_save"} & options.keys())
        before = {key: x.clone() for key, x in model.state_dict().items()}
        optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], 0.02)
        losses = [
            self.step(optimizer, model(tokens[:, :-1]).output, tokens)
            for tokens in map(torch.from_numpy, self.batches())
        ]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        assert losses[-1] < 0.95 * losses[1]
        for key, x in model.state_dict().items():
            assert torch.equal(x, before[key]) == ("lora" not in key and key not in whole), key
        reading = read_pretrained(made.base).reading
        save_adapter(model, tmp_path / "back", read_adapter(made.adapter), reading.layout, reading.axes)
        tokens = torch.from_numpy(self.batches()[0])
        found = made.load(tmp_path / "back")(tokens).logits
        torch.testing.assert_close(found, trained(tokens).logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found, model.eval()(tokens).output, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [{}, {"target_modules": ["c_attn"], "bias": "all"}])
    def test_losses_in_jax_are_those_of_peft_and_the_result_is_read_by_peft(self, tmp_path, options):
        made = sample("gpt2", tmp_path, **options)
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

    def test_new_updates_of_an_embedding_are_read_by_peft(self, tmp_path):
        made = sample("llama", tmp_path)
        model = load_pretrained(made.base, "torch")
        torch_attention.add_lora(model, 2, alpha=3.0, targets=("token_embedding", "q_proj"))
        for parameter in torch_attention.lora_parameters(model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        reading = read_pretrained(made.base).reading
        save_adapter(model, tmp_path / "new", {}, reading.layout, reading.axes)
        case = families.CASES["llama"]
        expected = families.reference(case, made.load(tmp_path / "new").get_base_model())["output"]
        assert error(outputs("llama", model, "torch")["output"], expected) < 2e-6

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
