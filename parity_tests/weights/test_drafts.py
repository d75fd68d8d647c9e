"""`draft_layout`: foreign pairs whose right layout is known, guesses that are marked, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import attention_bridge.weights
from attention_bridge.errors import InputError
from attention_bridge.weights import Draft, convert, draft_layout, transfer
from parity_tests.weights.draft_pairs import (
    FUSED,
    JAX,
    PAIRS,
    SIZES,
    TOKENS,
    JaxGPT,
    JaxRawAttention,
    Pair,
    RawAttention,
    TorchGPT,
    X,
    holder,
)

SLOW = {  # the others are in quick time
    "square, fused SwiGLU, renamed norms",
    "features outside heads, values first",
    "fused, rotary pairs",
    "fused by head",
    "fused grouped heads",
    "fused on both sides",
    "flat blocks",
    "rotary pairs, grouped heads",
}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with random tensors, also in norms, biases and statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and name != "scaling":
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
            if tensor.ndim == 1:
                tensor.abs_().add_(0.5)
    return module.eval()


def draft_of(pair: Pair, theirs: nn.Module, ours: nnx.Module) -> Draft:
    return draft_layout(theirs, ours, inputs=pair.inputs, inputs_b=pair.inputs_jax)


def in_float64(theirs: nn.Module, ours: nnx.Module, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of both models in float64."""

    def wide(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    given = wide(pair.inputs)
    with torch.no_grad():
        expected = theirs.double()(torch.from_numpy(given)).numpy()
    theirs.float()
    for _, module in nnx.iter_modules(ours):
        if getattr(module, "dtype", None) == jnp.float32:
            module.dtype = jnp.float64
    graph, state = nnx.split(ours)
    with jax.enable_x64(True):
        state = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            state,
        )
        x = jnp.asarray(given if pair.inputs_jax is None else wide(pair.inputs_jax))
        found = np.asarray(nnx.merge(graph, state)(x))
    return expected, found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in PAIRS]
)
def test_pair_is_solved_by_its_drafted_layout(name: str) -> None:
    pair = PAIRS[name]
    theirs, ours = randomised(pair.torch()), pair.jax()
    draft = draft_of(pair, theirs, ours)
    assert draft.agrees
    assert draft.open_guesses == ()
    space: dict[str, object] = {}
    exec(draft.source, space)
    layout = space["MINE"]
    assert layout == draft.layout
    transfer(theirs, ours, source_layout=layout, target_layout="plain")
    again = randomised(pair.torch(), seed=7)
    transfer(ours, again, source_layout="plain", target_layout=layout)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    expected, found = in_float64(theirs, ours, pair)
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() <= pair.error * np.abs(expected).max()


def test_ambiguous_pair_without_inputs_is_marked_as_a_guess() -> None:
    draft = draft_layout(TorchGPT(FUSED, SIZES), JaxGPT(JAX, SIZES))
    assert draft.agrees is None
    assert [guess.reason for guess in draft.open_guesses] == ["the order of query, key, value in c_attn"]
    assert draft.source.count("# guess: the order of query, key, value in c_attn") == 2
    assert "# guess" in draft.toml
    assert "settled" not in draft.source


def test_unambiguous_pair_has_no_guess() -> None:
    draft = draft_layout(PAIRS["flat blocks"].torch(), PAIRS["flat blocks"].jax())
    assert draft.guesses == ()
    assert "guess:" not in draft.source


def test_models_of_different_functions_leave_the_guesses_open() -> None:
    """A negative control: another activation, which no layout makes equal."""

    class Tanh(JaxRawAttention):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.tanh(super().__call__(x))

    draft = draft_layout(RawAttention(), Tanh(), inputs=X)
    assert draft.agrees is False
    assert len(draft.open_guesses) == 3
    assert "# guess" in draft.source
    assert "diagnose" in draft.source


def test_tensors_without_influence_stay_a_guess() -> None:
    """Two embeddings of which neither changes the output."""
    theirs = holder(nn.Module, one=nn.Embedding(4, 6), other=nn.Embedding(4, 6), top=nn.Linear(6, 3))
    rngs = nnx.Rngs(0)
    ours = holder(
        nnx.Module,
        first=nnx.Embed(4, 6, rngs=rngs),
        second=nnx.Embed(4, 6, rngs=rngs),
        last=nnx.Linear(6, 3, rngs=rngs),
    )
    draft = draft_layout(
        theirs,
        ours,
        inputs=X,
        functions=(
            lambda tensors, x: x @ tensors["top.weight"].T + tensors["top.bias"],
            lambda tensors, x: x @ tensors["last.kernel"] + tensors["last.bias"],
        ),
    )
    assert draft.agrees
    assert [guess.reason for guess in draft.open_guesses] == [
        "which layer is which of first, second; others give the same outputs"
    ]


WRONG = {
    "a layer more": (lambda: TorchGPT(FUSED, SIZES._replace(layers=3)), "no place"),
    "another width": (lambda: TorchGPT(FUSED, SIZES._replace(width=6)), "no place"),
    "no bias": (lambda: TorchGPT(FUSED._replace(bias=False), SIZES), "no counterpart"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pair_is_refused_in_one_sentence(name: str) -> None:
    make, expected = WRONG[name]
    with pytest.raises(InputError, match=expected) as error:
        draft_layout(make(), JaxGPT(JAX, SIZES))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 280


def test_bad_arguments_are_refused() -> None:
    theirs, ours = TorchGPT(FUSED, SIZES), JaxGPT(JAX, SIZES)
    with pytest.raises(InputError, match="name must be"):
        draft_layout(theirs, ours, name="my layout")
    with pytest.raises(InputError, match="needs inputs="):
        draft_layout(theirs, ours, functions=(len, len))
    with pytest.raises(InputError, match="a cannot be run"):
        draft_layout(theirs, ours, inputs=X)
    with pytest.raises(InputError, match="must hold tensors"):
        draft_layout({}, ours)
    with pytest.raises(InputError, match="inputs= needs a"):
        draft_layout(theirs.state_dict(), ours, inputs=TOKENS)


def test_modules_keep_their_weights_and_modes() -> None:
    pair = PAIRS["attention of Flax"]
    theirs, ours = pair.torch().train(), pair.jax()
    before = {name: x.clone() for name, x in theirs.state_dict().items()}
    kernel = np.asarray(ours.query.kernel.get_value())
    assert draft_of(pair, theirs, ours).agrees
    assert theirs.training
    assert all(torch.equal(x, before[name]) for name, x in theirs.state_dict().items())
    assert np.array_equal(kernel, ours.query.kernel.get_value())


def checkpoint(rng: np.random.Generator, width: int, hidden: int) -> dict[str, np.ndarray]:
    """A checkpoint of two layers with matrices of (in, out), as GPT-2 has them."""
    shapes = {"wte.weight": (11, width)}
    for n in range(2):
        shapes |= {f"h.{n}.ln.g": (width,), f"h.{n}.ln.b": (width,)}
        shapes |= {f"h.{n}.attn.c_attn.weight": (width, 3 * width), f"h.{n}.attn.c_attn.bias": (3 * width,)}
        shapes |= {f"h.{n}.attn.c_proj.weight": (width, width), f"h.{n}.mlp.c_fc.weight": (width, hidden)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} | {
        "h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8),
        "h.1.attn.bias": np.ones((1, 1, 4, 4), np.uint8),
    }


def other_names(width: int, hidden: int) -> dict[str, np.ndarray]:
    shapes = {"embed.weight": (11, width)}
    for n in range(2):
        shapes |= {f"layers.{n}.norm.weight": (width,), f"layers.{n}.norm.bias": (width,)}
        for each in "qkv":
            shapes[f"layers.{n}.self_attn.{each}_proj.weight"] = (width, width)
            shapes[f"layers.{n}.self_attn.{each}_proj.bias"] = (width,)
        shapes |= {
            f"layers.{n}.self_attn.o_proj.weight": (width, width),
            f"layers.{n}.ffn.weight": (hidden, width),
        }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_checkpoints_are_drafted_from_names_and_shapes(rng: np.random.Generator) -> None:
    theirs, ours = checkpoint(rng, 6, 10), other_names(6, 10)
    draft = draft_layout(theirs, ours)
    converted, report = convert(theirs, draft.layout, "plain")
    assert {name: x.shape for name, x in converted.items()} == {name: x.shape for name, x in ours.items()}
    assert np.array_equal(converted["layers.1.ffn.weight"], theirs["h.1.mlp.c_fc.weight"].T)
    assert [note.name for note in report.ignored] == ["h.0.attn.bias", "h.1.attn.bias"]
    reasons = {guess.reason for guess in draft.open_guesses}
    assert "the order of query, key, value in c_attn" in reasons
    assert any("c_proj" in rule[0] for guess in draft.open_guesses for rule in guess.rules)
    back, _ = convert(converted, "plain", draft.layout)
    assert all(back[name].tobytes() == x.tobytes() for name, x in theirs.items() if name in back)
    assert len(back) == len(theirs) - 2


def test_public_names_are_exported() -> None:
    assert {"draft_layout", "Draft", "Guess", "ReorderedRule"} <= {*attention_bridge.weights.__all__}
