"""The doctor on whole models: mistakes in code, in weights and in options, alone and together, and none."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge import diagnose
from attention_bridge.doctor.models.norms import Norm, norm_mistake
from attention_bridge.doctor.models.recording import record_jax
from attention_bridge.errors import InputError
from attention_bridge.parity.calls import Calls
from attention_bridge.pretrained import load_pretrained
from attention_bridge.weights import transfer
from parity_tests.helpers.small_llama import (
    EMBED,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    NAMES,
    TOKENS,
    FlaxBlock,
    FlaxLlama,
    reference,
)

# A mistake in the code of the second layer: the part and its mistake, the place, and words of the verdict.
CODE = [
    ("attention", "scale", "layers.1.attention", "does not scale the scores"),
    ("attention", "tiled", "layers.1.attention", "tiles the key/value heads"),
    ("attention", "base", "layers.1.attention", "RoPE base of 10000, and the reference 150000"),
    ("attention", "odd base", "layers.1.attention", "RoPE base of 2345[56].*, and the reference 150000"),
    ("attention", "no rope", "layers.1.attention", "does not apply RoPE"),
    ("attention", "not causal", "layers.1.attention", "attends to later positions"),
    ("attention", "axis", "layers.1.attention", "softmax over the queries"),
    ("attention", "reversed", "layers.1.attention", "in reverse, such as heads"),
    ("attention", "interleaved", "layers.1.attention", "turns pairs of neighbours"),
    ("attention", "raw", "layers.1.attention", "reshapes queries to heads without exchanging"),
    ("attention", "k v", "layers.1.attention", "exchanges keys and values"),
    ("gated", "gelu", "layers.1.feed_forward", "applies GELU where the reference applies SiLU"),
    ("gated", "tanh-gelu", "layers.1.feed_forward", "applies tanh-GELU where the reference applies SiLU"),
    ("gated", "relu2", "layers.1.feed_forward", "applies squared ReLU where the reference applies SiLU"),
    ("gated", "quick", "layers.1.feed_forward", "applies QuickGELU where the reference applies SiLU"),
    ("gated", "swapped", "layers.1.feed_forward", "gate and up are swapped"),
    ("norm", "weight + 1", "layers.1.attention_norm", "multiplies by 1 . weight instead of weight"),
    ("fault", "post", "layers.1", "the norm is after the residual"),
    ("fault", "no residual", "layers.1", "does not add the input of the layer"),
    ("fault", "norm skipped", "layers.1", "skips `ffn_norm`"),
    ("model", "embedding scale", "the model", r"does not multiply by sqrt\(24\)"),
    ("model", "softcap", "the model", "has no softcap 30"),
]


@pytest.fixture(scope="module")
def models():
    return {"float32": reference(), "bfloat16": reference().bfloat16()}


def ported(theirs, part=None, fault=None, **faults):
    """The port with mistakes in the code of its second layer, or of the model itself."""
    port = FlaxLlama(nnx.Rngs(0), fault=fault if part == "model" else None)
    faults |= {part: fault} if part not in (None, "model") else {}
    if faults:
        port.blocks[1] = FlaxBlock(nnx.Rngs(0), **faults)
    if next(theirs.parameters()).dtype == torch.bfloat16:
        nnx.update(port, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(port)))
        for _, each in nnx.iter_modules(port):
            for name in ("dtype", "param_dtype"):
                if hasattr(each, name):
                    setattr(each, name, jnp.bfloat16)
    transfer(theirs, port, names=NAMES)
    return port


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("part", "fault", "place", "words"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] if number % 3 else [], id=" ".join(each[:2]))
        for number, each in enumerate(CODE)
    ],
)
def test_mistake_in_code_is_named_at_its_place(models, dtype, part, fault, place, words):
    found = diagnose(models[dtype], ported(models[dtype], part, fault), TOKENS, names=NAMES)
    assert found.status == "diagnosed", found.verdict
    (finding,) = found.findings
    assert finding.place == place
    assert re.search(words, finding.mistake), finding.mistake
    assert found.verdict.startswith(f"in `{place}` the port ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_port_is_healthy(models, dtype):
    found = diagnose(models[dtype], ported(models[dtype]), TOKENS, names=NAMES)
    assert found.status == "healthy", found.verdict
    assert not found.findings


def test_layers_align_by_their_values_without_names(models):
    found = diagnose(models["float32"], ported(models["float32"], "attention", "scale"), TOKENS)
    assert [each.place for each in found.findings] == ["layers.1.attention"]


def test_several_mistakes_are_all_named(models):
    port = ported(models["float32"], "model", "softcap", attention="tiled", gated="swapped")
    found = diagnose(models["float32"], port, TOKENS, names=NAMES)
    assert {each.place for each in found.findings} == {
        "the model",
        "layers.1.attention",
        "layers.1.feed_forward",
    }
    assert found.status == "diagnosed"


def test_two_mistakes_in_one_layer_are_named(models):
    port = ported(models["float32"], "attention", "scale")
    kernel = port.blocks[1].mix.query.kernel
    kernel.set_value(kernel.get_value().T)
    found = diagnose(models["float32"], port, TOKENS, names=NAMES)
    said = {each.place: each.mistake for each in found.findings}
    assert "transposed, which is square" in said["layers.1.attention.wq"]
    assert "does not scale the scores" in said["layers.1.attention"]


def changed(where, function):
    """A change of a kernel of a layer."""

    def change(port):
        layer = port
        for name in where.split("."):
            layer = layer[int(name)] if name.isdigit() else getattr(layer, name)
        layer.kernel.set_value(jnp.asarray(function(np.asarray(layer.kernel.get_value()))))

    return change


def swapped(port):
    mix = port.blocks[1].mix
    key, value = (each.kernel.get_value() for each in (mix.key, mix.value))
    mix.key.kernel.set_value(value)
    mix.value.kernel.set_value(key)


def to_int8(w):
    step = np.abs(w).max() / 127
    return (np.rint(w / step) * step).astype(np.float32)


def shard(w):
    w = w.copy()
    w[: EMBED // 2] = w[:, : EMBED // 2].T
    return w


WEIGHTS = {
    "square": (
        changed("blocks.1.mix.query", lambda w: w.T),
        "layers.1.attention.wq",
        "transposed, which is square",
    ),
    "layer": (
        lambda port: nnx.update(port.blocks[2], nnx.state(port.blocks[0])),
        "layers.2",
        "^holds the weights of layers.0$",
    ),
    "swapped": (swapped, "layers.1.attention", "the two are swapped"),
    "float16": (
        lambda port: nnx.update(
            port, jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), nnx.state(port))
        ),
        "tok_embeddings",
        "^has 30 tensors rounded to float16",
    ),
    "bfloat16": (
        changed("blocks.0.mlp.down", lambda w: w.astype(ml_dtypes.bfloat16).astype(np.float32)),
        "layers.0.feed_forward.w2",
        "rounded to bfloat16",
    ),
    "int8": (changed("blocks.0.mlp.down", to_int8), "layers.0.feed_forward.w2", "rounded to int8"),
    "heads": (
        changed("blocks.0.mix.query", lambda w: w.reshape(EMBED, HEADS, -1)[:, ::-1].reshape(EMBED, -1)),
        "layers.0.attention.wq",
        "4 blocks in reverse, such as heads",
    ),
    "pairing": (
        changed(
            "blocks.0.mix.query",
            lambda w: w.reshape(EMBED, HEADS, 2, -1).swapaxes(2, 3).reshape(EMBED, -1),
        ),
        "layers.0.attention.wq",
        "as for another pairing of RoPE",
    ),
    "scaled": (
        changed("blocks.0.mix.query", lambda w: w * HEAD_DIM**-0.5),
        "layers.0.attention.wq",
        r"multiplied by 1 / sqrt\(6\)",
    ),
    "shard": (changed("blocks.0.mix.query", shard), "layers.0.attention.wq", "shard 0 of 2"),
    "halves": (
        changed("blocks.0.mlp.gate", lambda w: np.roll(w, HIDDEN // 2, 1)),
        "layers.0.feed_forward.w1",
        "another order: 2 blocks in reverse, such as gate and up",
    ),
    "zeros": (changed("head", np.zeros_like), "output", "only zeros"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_mistake_in_weights_is_named_at_its_place(models, name):
    change, place, words = WEIGHTS[name]
    port = ported(models["float32"])
    change(port)
    found = diagnose(models["float32"], port, TOKENS, names=NAMES)
    assert found.status == "diagnosed", found.verdict
    (finding,) = found.findings
    assert finding.place == place
    assert re.search(words, finding.mistake), finding.mistake


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eps": 1e-6}, "has eps 1e-06, and the reference 1e-05"),
        ({"eps": 1e-8}, "has eps 1e-08, and the reference 1e-05"),
        ({"centred": False}, "applies RMSNorm where the reference applies LayerNorm"),
        ({"has_bias": False}, "does not use its bias"),
        ({"unbiased": True}, "divides the variance by another number"),
        ({"offset": 1.0}, "multiplies by 1 + weight instead of weight"),
        ({}, ""),
    ],
)
def test_mistake_of_a_norm_is_named(changes, words, rng):
    x, own = 0.1 * rng.standard_normal((3, 5, 8)), {"weight": rng.random(8), "bias": rng.random(8)}
    right = Norm(centred=True)(x, own["weight"], own["bias"])
    port = replace(Norm(centred=True), **changes)(x, own["weight"], own["bias"])
    found = norm_mistake(x, own, port, right, 1e-7)
    assert words in found.mistake if words else found is None


class TestOrders:
    """A norm of queries before rotary positions, and learned positions that begin at 2."""

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = torch.nn.Embedding(17, 12), torch.nn.Embedding(20, 12)
            self.query, self.norm = torch.nn.Linear(12, 12), torch.nn.LayerNorm(12)
            self.head = torch.nn.Linear(12, 5)

        def forward(self, ids):
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]).expand(ids.shape) + 2)
            x = self.norm(self.query(x))
            angle = torch.arange(ids.shape[1])[:, None] / 10.0 ** torch.arange(6)
            a, b = x.chunk(2, -1)
            return self.head(
                torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
            )

    class Flax(nnx.Module):
        def __init__(self, fault=""):
            rngs = nnx.Rngs(0)
            self.tokens, self.places = nnx.Embed(17, 12, rngs=rngs), nnx.Embed(20, 12, rngs=rngs)
            self.query, self.norm = nnx.Linear(12, 12, rngs=rngs), nnx.LayerNorm(12, epsilon=1e-5, rngs=rngs)
            self.head, self.fault = nnx.Linear(12, 5, rngs=rngs), fault

        def __call__(self, ids):
            first = 0 if self.fault == "offset" else 2
            x = self.tokens(ids) + self.places(jnp.broadcast_to(jnp.arange(ids.shape[1]) + first, ids.shape))
            x = self.query(x)
            if self.fault == "order":
                return self.head(self.norm(self.turned(x)))
            return self.head(self.turned(self.norm(x)))

        def turned(self, x):
            angle = jnp.arange(x.shape[1])[:, None] / 10.0 ** jnp.arange(6)
            a, b = jnp.split(x, 2, -1)
            return jnp.concatenate(
                [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1
            )

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("", "the port is healthy"),
            ("order", "applies RoPE, or turns by another angle, before `norm`"),
            ("offset", "gives numbers that are too small by 2 before `places`"),
        ],
    )
    def test_order_or_offset_is_named(self, fault, words):
        torch.manual_seed(0)
        theirs, ours = self.Torch().eval(), self.Flax(fault)
        transfer(theirs, ours)
        assert words in diagnose(theirs, ours, TOKENS).verdict


class TestCalls:
    """Classes that inherit their call, and classes that call their base class beside others of that class."""

    class Scaled(nnx.Embed):
        def __call__(self, ids):
            return 3.0 * super().__call__(ids)

    class Inherited(nnx.Linear):
        pass

    class Flax(nnx.Module):
        def __init__(self, fault=""):
            rngs = nnx.Rngs(0)
            self.tokens, self.places = TestCalls.Scaled(17, 12, rngs=rngs), nnx.Embed(20, 12, rngs=rngs)
            self.inner, self.head = TestCalls.Inherited(12, 7, rngs=rngs), nnx.Linear(7, 5, rngs=rngs)
            self.fault = fault

        def __call__(self, ids):
            x = self.tokens(ids) + self.places(jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape))
            return self.head(jnp.sin(self.inner(x)) if self.fault else jnp.tanh(self.inner(x)))

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = torch.nn.Embedding(17, 12), torch.nn.Embedding(20, 12)
            self.inner, self.head = torch.nn.Linear(12, 7), torch.nn.Linear(7, 5)

        def forward(self, ids):
            x = 3.0 * self.tokens(ids) + self.places(torch.arange(ids.shape[1]).expand(ids.shape))
            return self.head(self.inner(x).tanh())

    def test_each_submodule_is_recorded_once_with_its_own_result(self):
        port = self.Flax()
        records = record_jax(port, Calls({"ids": TOKENS}, ("ids",)))
        assert records.keys() == {"", "tokens", "places", "inner", "head"}
        table = np.asarray(port.tokens.embedding.get_value())
        np.testing.assert_array_equal(records["tokens"].outputs["output"], 3.0 * table[TOKENS])

    def test_only_the_wrong_computation_is_named(self):
        torch.manual_seed(0)
        theirs, ours = self.Torch().eval(), self.Flax("sine")
        transfer(theirs, ours)
        found = diagnose(theirs, ours, TOKENS)
        assert [each.place for each in found.findings] == ["the model"]
        assert found.status == "unexplained"


class TestMasks:
    """A mask of keys that is given to an inner layer: True shows a key in one class, and hides it in another."""

    SEEN = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    X = np.random.default_rng(1).standard_normal((2, 4, 6)).astype(np.float32)

    class TorchMean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = torch.nn.Linear(6, 5)

        def forward(self, x, seen):
            return (self.up(x) * seen[..., None]).sum(1)

    class Torch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.head = TestMasks.TorchMean(), torch.nn.Linear(5, 3)

        def forward(self, x, seen):
            return self.head(self.mean(x, seen).tanh())

    class FlaxMean(nnx.Module):
        def __init__(self, hides):
            self.up, self.hides = nnx.Linear(6, 5, rngs=nnx.Rngs(0)), hides

        def __call__(self, x, mask):
            return (self.up(x) * (~mask if self.hides else mask)[..., None]).sum(1)

    class Flax(nnx.Module):
        def __init__(self, hides, gives, fault):
            self.mean, self.head = TestMasks.FlaxMean(hides), nnx.Linear(5, 3, rngs=nnx.Rngs(0))
            self.gives, self.fault = gives, fault

        def __call__(self, x, seen):
            x = self.mean(x, ~seen if self.gives == "hidden" else seen)
            return self.head(x if self.fault else jnp.tanh(x))

    @pytest.mark.parametrize(
        ("hides", "gives", "fault", "words"),
        [
            (False, "seen", False, "the port is healthy"),
            (True, "hidden", False, "the port is healthy"),
            (True, "hidden", True, "in `the model` the port takes the output of `mean`"),
            (False, "hidden", False, "in `the model` the port inverts the mask before `mean`"),
        ],
    )
    def test_another_convention_is_no_mistake(self, hides, gives, fault, words):
        torch.manual_seed(0)
        theirs, ours = self.Torch().eval(), self.Flax(hides, gives, fault)
        transfer(theirs, ours)
        found = diagnose(theirs, ours, self.X, self.SEEN)
        assert found.verdict.startswith(words), found.verdict
        assert len(found.findings) == (not words.endswith("healthy"))


def test_models_that_agree_have_no_mistake_in_their_weights(models):
    port = ported(models["float32"])
    mix = port.blocks[1].mix
    for part, factor in ((mix.value, 2.0), (mix.out, 0.5)):  # exact, and nothing changes
        part.kernel.set_value(factor * part.kernel.get_value())
    assert diagnose(models["float32"], port, TOKENS, names=NAMES).status == "healthy"


class TestUnexplained:
    def test_other_weights_have_no_name(self, models):
        noise = np.random.default_rng(0)
        port = ported(models["float32"])
        changed("blocks.0.mix.query", lambda w: w + 0.01 * noise.normal(size=w.shape).astype(np.float32))(
            port
        )
        found = diagnose(models["float32"], port, TOKENS, names=NAMES)
        assert found.status == "unexplained"
        assert [each.place for each in found.findings] == ["layers.0.attention.wq"]
        assert "no mistake known to the doctor explains it" in found.verdict

    def test_unknown_computation_has_no_name(self, models):
        class Odd(nnx.Module):
            def __init__(self, inner):
                self.gate, self.up, self.down = inner.gate, inner.up, inner.down

            def __call__(self, x):
                return self.down(jnp.sin(self.gate(x)) * self.up(x) ** 2)

        port = ported(models["float32"])
        port.blocks[2].mlp = Odd(port.blocks[2].mlp)
        found = diagnose(models["float32"], port, TOKENS, names=NAMES)
        assert found.status == "unexplained"
        assert [each.place for each in found.findings] == ["layers.2.feed_forward"]

    def test_dropout_that_is_on_is_named(self, models):
        class Dropped(nnx.Module):
            def __init__(self, inner):
                self.inner, self.dropout = inner, nnx.Dropout(0.5, rngs=nnx.Rngs(0))

            def __call__(self, x):
                return self.dropout(self.inner(x))

        port = ported(models["float32"])
        port.blocks[1].mlp = Dropped(port.blocks[1].mlp)
        found = diagnose(models["float32"], port, TOKENS)
        assert "dropout is on" in found.verdict

    def test_other_objects_are_refused(self, models):
        with pytest.raises(InputError, match="the port must be a Flax NNX module, got dict"):
            diagnose(models["float32"], {}, TOKENS)


@pytest.mark.slow
class TestMirrors:
    """A model of transformers and its mirror in PyTorch, each against a mirror in JAX with another option."""

    @pytest.fixture(scope="class")
    @classmethod
    def places(cls, tmp_path_factory):
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        config = transformers.Gemma2Config(
            vocab_size=19,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            intermediate_size=40,
            sliding_window=4,
        )
        model = transformers.Gemma2ForCausalLM(config).eval()
        with torch.no_grad():
            for each in model.parameters():
                each.normal_(0 if each.ndim > 1 else 1, 0.3)
        place = tmp_path_factory.mktemp("gemma2")
        model.save_pretrained(place)
        return model, load_pretrained(place, "torch"), place

    @pytest.mark.parametrize("kind", ["transformers", "mirror"])
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, ""),
            ({"attn_logit_softcapping": None}, "does not cap the scores"),
            ({"final_logit_softcapping": None}, "softcap"),
            ({"sliding_window": 5}, "window"),
            ({"rms_norm_eps": 1e-5}, "epsilon=1e-05, and the reference 1e-06"),
            ({"hidden_activation": "silu"}, "applies SiLU where the reference applies tanh-GELU"),
        ],
        ids=lambda each: ", ".join(each) if isinstance(each, dict) else "",
    )
    def test_option_is_named(self, places, kind, changes, words):
        theirs = places[0] if kind == "transformers" else places[1]
        port = load_pretrained(places[2], "jax", config=changes)
        call = (lambda model, x: model(x, use_cache=False)) if kind == "transformers" else None
        found = diagnose(theirs, port, TOKENS, torch_call=call, outputs=lambda result: result.logits)
        assert found.status == ("diagnosed" if words else "healthy"), found.verdict
        assert len(found.findings) == bool(words)
        assert words in found.verdict
