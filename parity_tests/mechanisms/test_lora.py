"""LoRA in both mirrors: equal to PEFT's layer, the same training in both frameworks, exact transfer and merging."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
from flax import nnx
from peft.tuners.lora.layer import Embedding as PeftEmbedding
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import nn

import jax_attention as ja
import torch_attention as ta
from attention_bridge import transfer
from attention_bridge.errors import ConversionError
from jax_attention import models as jax_models
from torch_attention import models as torch_models

IN, OUT, RANK, ALPHA = 7, 5, 3, 4.0
SIZES = {"vocab_size": 11, "embed_dim": 6, "num_heads": 3, "num_layers": 2, "ffn_dim": 8, "max_len": 9}
MIRRORS = {"torch": ta, "jax": ja}


def torch_layer(rng, dtype=torch.float32, **options):
    """An adapted layer with random parameters."""
    layer = ta.LoRALinear(nn.Linear(IN, OUT), RANK, alpha=ALPHA, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    layer.base.to(dtype)
    return layer


def jax_layer(like, dtype=jnp.float32, **options):
    """The same layer in JAX."""
    base = nnx.Linear(IN, OUT, rngs=nnx.Rngs(0), param_dtype=dtype)
    return transfer(like, ja.LoRALinear(base, RANK, alpha=ALPHA, rngs=nnx.Rngs(1), **options))


def peft_layer(like, dtype=torch.float32, **options):
    """PEFT's layer with the same parameters."""
    base = nn.Linear(IN, OUT, dtype=dtype)
    base.load_state_dict(like.base.state_dict())
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, **options)
    layer = PeftLinear(base, "default", config, r=RANK, lora_alpha=ALPHA).float()
    layer.base_layer.to(dtype)
    layer.lora_A["default"].weight.data.copy_(like.lora_A)
    layer.lora_B["default"].weight.data.copy_(like.lora_B)
    return layer


def decoders(seed=0):
    """Two small language models with the same weights."""
    torch.manual_seed(seed)
    ours = torch_models.Decoder(torch_models.DecoderConfig(**SIZES))
    return ours, transfer(ours, jax_models.Decoder(jax_models.DecoderConfig(**SIZES), rngs=nnx.Rngs(seed)))


def add(package, model, **options):
    """LoRA in a model of either mirror."""
    rngs = {"rngs": nnx.Rngs(5)} if package is ja else {}
    return package.add_lora(model, RANK, alpha=ALPHA, **rngs, **options)


def adapted(rng, **options):
    """Two models with the same weights and LoRA with the same, random parameters."""
    ours, theirs = decoders()
    add(ta, ours, **options)
    for parameter in ta.lora_parameters(ours).values():
        parameter.data.copy_(torch.from_numpy(0.3 * rng.standard_normal(parameter.shape)))
    return ours, transfer(ours, add(ja, theirs, **options))


class TestLayer:
    @pytest.mark.parametrize("use_rslora", [False, True])
    def test_output_and_gradients_equal_peft(self, rng, use_rslora):
        layer = torch_layer(rng, use_rslora=use_rslora)
        reference, other = peft_layer(layer, use_rslora=use_rslora), jax_layer(layer, use_rslora=use_rslora)
        x = torch.from_numpy(rng.standard_normal((2, 4, IN), np.float32))
        expected, found = reference(x), layer(x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(other(jnp.asarray(x)), expected.detach(), rtol=1e-6, atol=2e-6)
        expected.square().sum().backward()
        found.square().sum().backward()
        assert layer.base.weight.grad is None
        grads = nnx.grad(
            lambda m: jnp.square(m(jnp.asarray(x))).sum(), argnums=nnx.DiffState(0, nnx.LoRAParam)
        )(other)
        assert sorted(grads) == ["lora_A", "lora_B"]
        for name, parameter in reference.named_parameters():
            if "lora" in name:
                short = name.split(".")[0]
                given = parameter.grad
                torch.testing.assert_close(getattr(layer, short).grad, given, rtol=1e-5, atol=1e-4)
                np.testing.assert_allclose(grads[short][...], given, rtol=1e-5, atol=1e-4)

    def test_forgotten_scale_and_swapped_factors_are_detected(self, rng):
        """Negative controls."""
        layer = torch_layer(rng)
        x = torch.from_numpy(rng.standard_normal((2, 4, IN), np.float32))
        expected = peft_layer(layer)(x)
        layer.lora_scale = 1.0
        assert (layer(x) - expected).abs().max() > 0.1
        with pytest.raises(RuntimeError, match="size of tensor"):
            layer.lora_A.data.copy_(layer.lora_B)

    @pytest.mark.parametrize(
        ("ours", "theirs"), [(torch.bfloat16, jnp.bfloat16), (torch.float16, jnp.float16)]
    )
    def test_update_of_a_16_bit_layer_is_float32_and_its_output_16_bit(self, rng, ours, theirs):
        layer = torch_layer(rng, ours)
        other = jax_layer(layer, theirs)
        x = torch.from_numpy(rng.standard_normal((2, 4, IN), np.float32)).to(ours)
        expected = peft_layer(layer, ours)(x)
        assert layer.lora_A.dtype == torch.float32
        assert other.lora_A.dtype == jnp.float32
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
        found = other(jnp.asarray(x.float(), theirs))
        assert found.dtype == theirs
        unit = float(jnp.finfo(theirs).eps)
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.detach().float(), rtol=0, atol=8 * unit
        )

    def test_dropout_mask_is_applied_to_the_input_of_the_update(self, rng):
        layer = torch_layer(rng, dropout=0.25)
        other = jax_layer(layer, dropout=0.25)
        x, keep = rng.standard_normal((2, 4, IN), np.float32), rng.random((2, 4, IN)) < 0.5
        found = layer(torch.from_numpy(x), torch.from_numpy(keep)).detach()
        a, b = layer.lora_A.detach().numpy(), layer.lora_B.detach().numpy()
        update = np.where(keep, x / 0.75, 0.0) @ a.T @ b.T * ALPHA / RANK
        np.testing.assert_allclose(
            found, layer.base(torch.from_numpy(x)).detach().numpy() + update, rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(other(jnp.asarray(x), jnp.asarray(keep)), found, rtol=1e-5, atol=1e-5)
        assert not torch.equal(layer(torch.from_numpy(x)), layer(torch.from_numpy(x)))
        layer.eval(), other.eval()
        torch.testing.assert_close(layer(torch.from_numpy(x)), peft_layer(layer)(torch.from_numpy(x)))
        np.testing.assert_allclose(
            other(jnp.asarray(x)), layer(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-5
        )

    def test_first_parameters_have_the_distribution_of_peft(self):
        bound = 1 / math.sqrt(40)
        first = {
            "peft": PeftLinear(nn.Linear(40, 6), "default", peft.LoraConfig(r=50), r=50)
            .lora_A["default"]
            .weight.detach(),
            "torch": ta.LoRALinear(nn.Linear(40, 6), 50, alpha=1.0).lora_A.detach(),
            "jax": ja.LoRALinear(nnx.Linear(40, 6, rngs=nnx.Rngs(0)), 50, alpha=1.0, rngs=nnx.Rngs(1)).lora_A[
                ...
            ],
        }
        for drawn in first.values():
            drawn = np.asarray(drawn)
            assert drawn.shape == (50, 40)
            assert 0.98 * bound < np.abs(drawn).max() <= bound
            assert abs(drawn.std() / (bound / math.sqrt(3)) - 1) < 0.05


class TestEmbedding:
    def layers(self, rng, dtype=torch.float32):
        """An adapted embedding, the same one in JAX, and PEFT's."""
        layer = ta.LoRAEmbedding(nn.Embedding(IN, OUT), RANK, alpha=ALPHA)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
        layer.weight.data = layer.weight.data.to(dtype)
        kind = {torch.float32: jnp.float32, torch.bfloat16: jnp.bfloat16}[dtype]
        base = nnx.Embed(IN, OUT, rngs=nnx.Rngs(0), param_dtype=kind)
        other = ja.LoRAEmbedding(base, RANK, alpha=ALPHA, rngs=nnx.Rngs(1))
        reference = nn.Embedding(IN, OUT, dtype=dtype)
        reference.weight.data.copy_(layer.weight)
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA)
        reference = PeftEmbedding(reference, "default", config, r=RANK, lora_alpha=ALPHA)
        for name in ("lora_embedding_A", "lora_embedding_B"):
            getattr(reference, name)["default"] = nn.Parameter(getattr(layer, name).detach().clone())
        named = {"source_embedding": layer}
        transfer(nn.ModuleDict(named), Holder(other))
        return layer, other, reference

    def test_output_and_gradients_equal_peft(self, rng):
        layer, other, reference = self.layers(rng)
        tokens = rng.integers(0, IN, (2, 4))
        expected, found = reference(torch.from_numpy(tokens)), layer(torch.from_numpy(tokens))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(other(jnp.asarray(tokens)), expected.detach(), rtol=1e-6, atol=2e-6)
        expected.square().sum().backward()
        found.square().sum().backward()
        assert layer.weight.grad is None
        grads = nnx.grad(
            lambda m: jnp.square(m(jnp.asarray(tokens))).sum(), argnums=nnx.DiffState(0, nnx.LoRAParam)
        )(other)
        assert sorted(grads) == ["lora_embedding_A", "lora_embedding_B"]
        for name in grads:
            given = getattr(reference, name)["default"].grad
            torch.testing.assert_close(getattr(layer, name).grad, given, rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(grads[name][...], given, rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_merge_rounds_as_peft_does(self, rng, dtype):
        layer, other, reference = self.layers(rng, dtype)
        reference.merge()
        plain, theirs = layer.merged(), other.merged()
        assert type(plain) is nn.Embedding
        assert type(theirs) is nnx.Embed
        assert torch.equal(plain.weight, reference.base_layer.weight)
        found = np.asarray(theirs.embedding[...].astype(jnp.float32))
        unit = float(torch.finfo(dtype).eps)
        np.testing.assert_allclose(found, plain.weight.detach().float().numpy(), rtol=2 * unit, atol=2 * unit)

    def test_tied_output_layer_uses_the_base_and_first_outputs_are_the_base(self):
        tokens = [[1, 2, 3, 4], [5, 6, 7, 8]]
        for package, model in zip(MIRRORS.values(), decoders(), strict=True):
            given = torch.tensor(tokens) if package is ta else jnp.asarray(tokens)
            before = model(given).output
            add(package, model, targets=("token_embedding", "q_proj"))
            assert bool((model(given).output == before).all())
            assert [name.split(".")[-1] for name in package.lora_parameters(model)].count(
                "lora_embedding_A"
            ) == 1
            table = model.token_embedding
            hidden = torch.eye(6)[None] if package is ta else jnp.eye(6)[None]
            scores = package.layers.similarities(table, hidden)
            weight = table.weight.detach() if package is ta else table.embedding[...]
            np.testing.assert_allclose(_numpy(scores)[0].T, weight, rtol=1e-6, atol=1e-7)
            package.merge_lora(model)
            assert package.lora_parameters(model) == {}


class Holder(nnx.Module):
    """A module with an embedding."""

    def __init__(self, layer):
        self.source_embedding = layer


class TestModel:
    @pytest.mark.parametrize("name", MIRRORS)
    def test_outputs_stay_the_same_at_first_and_only_updates_are_trained(self, name):
        model = decoders()[name == "jax"]
        tokens = [[1, 2, 3, 4], [5, 6, 7, 8]]
        tokens = torch.tensor(tokens) if name == "torch" else jnp.asarray(tokens)
        before = model(tokens).output
        package = MIRRORS[name]
        assert add(package, model) is model
        assert bool((model(tokens).output == before).all())
        paths = [
            f"layers.{n}.attention.{x}_proj.lora_{y}"
            for n in range(2)
            for x in ("q", "v")
            for y in ("A", "B")
        ]
        assert sorted(package.lora_parameters(model)) == paths
        if name == "torch":
            assert [n for n, x in model.named_parameters() if x.requires_grad] == paths
        else:
            trained = nnx.to_flat_state(nnx.state(model, nnx.LoRAParam))
            assert [".".join(map(str, path)) for path, _ in trained] == paths

    def test_targets_may_be_ends_of_paths(self):
        for package, model in zip(MIRRORS.values(), decoders(), strict=True):
            add(package, model, targets=("layers.1.attention.out_proj", "ffn.up_proj"))
            assert sorted(package.lora_parameters(model))[::2] == [
                "layers.0.ffn.up_proj.lora_A",
                "layers.1.attention.out_proj.lora_A",
                "layers.1.ffn.up_proj.lora_A",
            ]

    def test_unknown_target_raises_the_same_error_in_both(self):
        said = set()
        for package, model in zip(MIRRORS.values(), decoders(), strict=True):
            for targets in (("q_proj", "query"), ("roj",)):
                with pytest.raises(ValueError, match="targets must be names of linear layers") as error:
                    add(package, model, targets=targets)
                said.add(str(error.value))
            assert package.lora_parameters(model) == {}
        assert len(said) == 2
        known = "down_proj, k_proj, out_proj, position_embedding, q_proj, token_embedding, up_proj, v_proj"
        assert any(text.endswith(f"({known}), got 'query'") for text in said)

    def test_merged_equals_apart_and_has_plain_layers(self, rng):
        models = adapted(rng)
        tokens = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
        apart = [m(x).output for m, x in _called(models, tokens)]
        for package, model in zip(MIRRORS.values(), models, strict=True):
            assert package.merge_lora(model) is model
            assert package.lora_parameters(model) == {}
        merged = [m(x).output for m, x in _called(models, tokens)]
        plain = decoders()[0](torch.from_numpy(tokens)).output
        for before, after in zip(apart, merged, strict=True):
            np.testing.assert_allclose(_numpy(after), _numpy(before), rtol=0, atol=1e-6)
            assert np.abs(_numpy(after) - _numpy(plain)).max() > 0.01
        assert models[0].state_dict().keys() == decoders()[0].state_dict().keys()

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
    def test_merge_rounds_as_peft_does(self, rng, dtype):
        layer = torch_layer(rng, getattr(torch, dtype))
        reference = peft_layer(layer, getattr(torch, dtype))
        reference.merge()
        other = nn.Sequential(layer)
        theirs = jax_layer(layer) if dtype == "float32" else None
        ta.merge_lora(other)
        assert torch.equal(other[0].weight, reference.base_layer.weight)
        if theirs is not None:
            holder = nnx.List([theirs])
            ja.merge_lora(holder)
            np.testing.assert_allclose(
                holder[0].kernel[...].T, reference.base_layer.weight.detach(), rtol=0, atol=1e-6
            )

    def test_transfer_is_exact_in_both_directions_and_compares_scales(self, rng):
        ours, theirs = adapted(rng)
        back = add(ta, decoders(1)[0])
        transfer(theirs, back)
        for name, leaf in ours.state_dict().items():
            assert torch.equal(leaf, back.state_dict()[name]), name
        ta.add_lora(other := decoders()[0], RANK, alpha=2 * ALPHA)
        with pytest.raises(ConversionError, match=r"lora_scale=1\.33"):
            transfer(theirs, other)

    def test_shared_factor_is_transferred_once_and_listed_once(self, rng):
        """Layers that are one fused layer in a checkpoint share lora_A."""
        ours, theirs = adapted(rng)
        for model in (ours, theirs):
            attention = model.layers[0].attention
            attention.v_proj.lora_A = attention.q_proj.lora_A
        assert len(ta.lora_parameters(ours)) == len(ja.lora_parameters(theirs)) == 7
        ours.layers[0].attention.q_proj.lora_A.data.fill_(0.5)
        transfer(ours, theirs)
        assert (theirs.layers[0].attention.v_proj.lora_A[...] == 0.5).all()
        theirs.layers[0].attention.q_proj.lora_A[...] = jnp.full((RANK, 6), 0.25)
        transfer(theirs, ours)
        assert (ours.layers[0].attention.v_proj.lora_A == 0.25).all()


def test_training_of_the_updates_gives_the_same_losses_and_leaves_the_base_untouched(rng):
    ours, theirs = adapted(rng)
    before = {name: x.clone() for name, x in ours.state_dict().items()}
    kept = nnx.to_flat_state(nnx.state(nnx.clone(theirs), nnx.Not(nnx.LoRAParam)))
    tokens = rng.integers(0, 11, (20, 3, 8))
    options = {"eps": 1e-8, "weight_decay": 0.01}
    optimizer = torch.optim.AdamW(ta.lora_parameters(ours).values(), 0.01, betas=(0.9, 0.98), **options)
    stepper = nnx.Optimizer(theirs, optax.adamw(0.01, b1=0.9, b2=0.98, **options), wrt=nnx.LoRAParam)

    def loss_of(model, batch):
        logits = model(batch[:, :-1]).output
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    @nnx.jit
    def step(model, stepper, batch):
        loss, grads = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, nnx.LoRAParam))(model, batch)
        stepper.update(model, grads)
        return loss

    losses = []
    for batch in tokens:
        given = torch.from_numpy(batch)
        loss = nn.functional.cross_entropy(ours(given[:, :-1]).output.flatten(0, 1), given[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((loss.item(), float(step(theirs, stepper, jnp.asarray(batch)))))
    found, expected = np.array(losses).T
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    for name, leaf in ours.state_dict().items():
        assert torch.equal(leaf, before[name]) == ("lora" not in name), name
    for path, leaf in nnx.to_flat_state(nnx.state(theirs, nnx.Not(nnx.LoRAParam))):
        assert (leaf[...] == dict(kept)[path][...]).all(), path
    transfer(theirs, other := add(ta, decoders()[0]))
    for name, leaf in ta.lora_parameters(ours).items():
        torch.testing.assert_close(ta.lora_parameters(other)[name], leaf, rtol=1e-4, atol=1e-5)


def _called(models, tokens):
    return zip(models, (torch.from_numpy(tokens), jnp.asarray(tokens)), strict=True)


def _numpy(x):
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else jax.device_get(x))
