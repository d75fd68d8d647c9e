"""`compare` and `assert_parity` of two models of one's own: other names, axes, libraries, outputs and calls."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from attention_bridge.errors import InputError
from attention_bridge.parity import assert_parity, compare
from attention_bridge.weights import transfer

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)
TOKENS = np.array([[1, 5, 2, 6], [0, 3, 6, 4]])
VOCABULARY, EMBED, HIDDEN, CLASSES = 7, 12, 20, 5


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(EMBED)
        self.attend = nn.MultiheadAttention(EMBED, 3, batch_first=True)
        self.up, self.down = nn.Linear(EMBED, HIDDEN), nn.Linear(HIDDEN, EMBED)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return x + self.down(torch.nn.functional.gelu(self.up(x), approximate="tanh"))


class TorchText(nn.Module):
    """A model with tied embeddings that returns a dictionary."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, EMBED)
        self.stack = nn.ModuleList(TorchBlock() for _ in range(2))
        self.head = nn.Linear(EMBED, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, input_ids):
        x = self.wte(input_ids)
        states = [x]
        for block in self.stack:
            x = block(x)
            states.append(x)
        return {"logits": self.head(x), "states": tuple(states)}


class FlaxBlock(nnx.Module):
    def __init__(self, rngs, scale: float = 1.0) -> None:
        self.pre = nnx.LayerNorm(EMBED, epsilon=1e-5, rngs=rngs)
        self.mix = nnx.MultiHeadAttention(3, EMBED, decode=False, rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(EMBED, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, EMBED, rngs=rngs)
        self.scale = scale

    def __call__(self, x):
        x = x + self.mix(self.pre(x))
        return x + self.scale * self.fc2(nnx.gelu(self.fc1(x)))


class FlaxText(nnx.Module):
    def __init__(self, rngs, scale: float = 1.0) -> None:
        self.embed = nnx.Embed(VOCABULARY, EMBED, rngs=rngs)
        self.blocks = nnx.List([FlaxBlock(rngs), FlaxBlock(rngs, scale)])

    def __call__(self, tokens):
        x = self.embed(tokens)
        states = [x]
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return self.embed.attend(x), tuple(states)


def randomised(module):
    generator = torch.Generator().manual_seed(3)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.4)
    return module.eval()


@pytest.fixture(scope="module")
def texts():
    theirs, ours = randomised(TorchText()), FlaxText(nnx.Rngs(0))
    transfer(theirs, ours)
    return theirs, ours


class TestTexts:
    def test_other_names_and_tied_embeddings_are_equal(self, texts):
        found = compare(*texts, TOKENS)
        assert all(each.ok for each in found)
        gradients = {each.name for each in found if each.kind == "gradient"}
        assert gradients == {name for name, _ in texts[0].named_parameters()}
        assert {each.name for each in found if each.kind == "output"} == {
            "output.logits",
            *(f"output.states.{number}" for number in range(3)),
        }

    def test_first_wrong_submodule_is_named_as_in_torch(self, texts):
        wrong = FlaxText(nnx.Rngs(0), scale=1.01)
        transfer(texts[0], wrong)
        with pytest.raises(AssertionError, match=r"first in submodule `stack\.1 \(output\)`"):
            assert_parity(texts[0], wrong, TOKENS)

    def test_untied_copies_in_jax_have_the_sum_of_their_gradients(self, texts):
        class Untied(FlaxText):
            def __init__(self, rngs):
                super().__init__(rngs)
                self.head = nnx.Linear(EMBED, VOCABULARY, use_bias=False, rngs=rngs)

            def __call__(self, tokens):
                (_, states) = super().__call__(tokens)
                return self.head(states[-1]), states

        untied = Untied(nnx.Rngs(1))
        transfer(texts[0], untied)
        assert_parity(texts[0], untied, TOKENS)
        untied.head.kernel.set_value(1.001 * untied.head.kernel.get_value())
        with pytest.raises(AssertionError, match="logits"):
            assert_parity(texts[0], untied, TOKENS)

    def test_chosen_outputs_are_compared(self, texts):
        found = compare(*texts, TOKENS, outputs={"output.logits": "output.0"})
        assert [each.name for each in found if each.kind == "output"] == ["output.logits"]
        assert all(each.ok for each in found)
        picked = compare(
            *texts, TOKENS, outputs=lambda found: found["logits"] if isinstance(found, dict) else found[0]
        )
        assert [each.name for each in picked if each.kind == "output"] == ["output"]
        assert all(each.ok for each in picked)

    def test_described_inputs_are_drawn(self, texts):
        described = jax.ShapeDtypeStruct((2, 6), jnp.int32)
        found = compare(*texts, described)
        assert not [str(each) for each in found if not each.ok]
        assert found[0].elements == 2 * 6 * VOCABULARY

    def test_sixteen_bits_have_the_yardstick_of_torch(self, texts):
        theirs, ours = randomised(TorchText()).bfloat16(), FlaxText(nnx.Rngs(0))
        nnx.update(ours, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(ours)))
        for _, part in nnx.iter_modules(ours):
            for name in ("dtype", "param_dtype"):
                if hasattr(part, name):
                    setattr(part, name, jnp.bfloat16)
        transfer(theirs, ours)
        assert_parity(theirs, ours, TOKENS)
        ours.blocks[1].scale = 1.5
        with pytest.raises(AssertionError):
            assert_parity(theirs, ours, TOKENS)


@pytest.fixture(scope="module")
def images():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, stride=2, groups=1)
            self.norm = nn.BatchNorm2d(4)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, pixels):
            return self.head(self.norm(self.stem(pixels)).relu().mean((2, 3)))

    class Flax(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), strides=2, padding="VALID", rngs=rngs)
            self.batch_norm = nnx.BatchNorm(4, use_running_average=True, epsilon=1e-5, rngs=rngs)
            self.classifier = nnx.Linear(4, CLASSES, rngs=rngs)

        def __call__(self, pixels):
            return self.classifier(nnx.relu(self.batch_norm(self.conv(pixels))).mean((1, 2)))

    theirs, ours = randomised(Torch()), Flax(nnx.Rngs(0))
    theirs.norm.running_var.add_(0.5)
    transfer(theirs, ours)
    return theirs, ours


class TestImages:
    def test_calls_bring_the_axes_of_each(self, images):
        found = compare(*images, IMAGES, jax_call=lambda model, x: model(x.transpose(0, 2, 3, 1)))
        assert all(each.ok for each in found)
        assert "pixels" in {each.name for each in found}

    def test_inputs_that_do_not_fit_are_refused(self, images):
        with pytest.raises(InputError, match="the inputs must fit the call of Torch: "):
            compare(*images, IMAGES, IMAGES)
        described = jax.ShapeDtypeStruct((2, 3), jnp.int32)
        with pytest.raises(InputError, match="pixels must be given as an array"):
            compare(*images, described)


class TestLibraries:
    TORCH = staticmethod(lambda: randomised(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))))
    X = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)

    def test_equinox(self):
        keys = jax.random.split(jax.random.key(0))
        ours = equinox.nn.Sequential(
            [
                equinox.nn.Linear(4, 6, key=keys[0]),
                equinox.nn.Lambda(jnp.tanh),
                equinox.nn.Linear(6, 3, key=keys[1]),
            ]
        )
        theirs = self.TORCH()
        ours = transfer(theirs, ours)
        assert_parity(theirs, ours, self.X, jax_call=lambda model, x: jax.vmap(model)(x))
        with pytest.raises(AssertionError, match="output"):
            assert_parity(theirs, ours, self.X, jax_call=lambda model, x: jax.vmap(model)(2 * x))

    @pytest.mark.parametrize("whole", [True, False])
    def test_linen(self, whole):
        module = linen.Sequential([linen.Dense(6), jnp.tanh, linen.Dense(3)])
        theirs, variables = self.TORCH(), module.init(jax.random.key(0), self.X)
        variables = transfer(theirs, variables)
        pair = (
            (module.apply, variables)
            if whole
            else (lambda p, x: module.apply({"params": p}, x), variables["params"])
        )
        found = compare(theirs, pair, self.X)
        assert all(each.ok for each in found)
        assert {each.name for each in found if each.kind == "gradient"} == {
            "input",
            "0.weight",
            "0.bias",
            "2.weight",
            "2.bias",
        }

    def test_other_things_are_refused(self):
        with pytest.raises(
            InputError, match="jax_module must be an NNX module, an Equinox module, or a pair"
        ):
            compare(self.TORCH(), {"a": jnp.ones(3)}, self.X)


class TestCells:
    def test_gradients_of_both_biases_of_a_lstm_are_equal(self):
        theirs, ours = randomised(nn.LSTMCell(4, 6)), nnx.LSTMCell(4, 6, rngs=nnx.Rngs(0))
        theirs.bias_hh.data.zero_()
        transfer(theirs, ours)
        x, h, c = (
            np.random.default_rng(i).standard_normal((3, n)).astype(np.float32)
            for i, n in enumerate((4, 6, 6))
        )
        found = compare(
            theirs,
            ours,
            x,
            h,
            c,
            torch_call=lambda model, x, h, c: model(x, (h, c)),
            jax_call=lambda model, x, h, c: model((c, h), x)[0][::-1],
        )
        assert all(each.ok for each in found)
        assert {"bias_ih", "bias_hh"} <= {each.name for each in found}


def test_unequal_weights_are_named():
    theirs = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    ours = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"the same gradients, but not both have 1\.bias, 1\.weight"):
        compare(theirs, ours, np.ones((2, 4), np.float32))


def test_unknown_outputs_are_refused(texts):
    with pytest.raises(
        InputError, match="outputs must name outputs of both models, but 'y' is none of JAX's"
    ):
        compare(*texts, TOKENS, outputs={"output.logits": "y"})
    with pytest.raises(InputError, match="both models must return the same outputs"):
        compare(*texts, TOKENS, jax_call=lambda model, x: model(x)[0][:, 1:])
