"""The JAX mirror in Flax Linen through Flax's own bridge: converted weights, equal outputs and gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from flax.nnx import bridge

import jax_attention
import jax_attention.models
import torch_attention
import torch_attention.models
from attention_bridge.errors import ConversionError
from attention_bridge.parity.comparison import error
from attention_bridge.parity.run import named_outputs
from attention_bridge.weights import convert, transfer

BATCH, HEADS, LENGTH, MEMORY, EMBED, FFN, VOCAB, MAX_LEN = 2, 3, 5, 7, 12, 13, 17, 11
BOUND = 2e-6
ENCODER = {
    "vocab_size": VOCAB,
    "embed_dim": EMBED,
    "num_heads": HEADS,
    "num_layers": 2,
    "ffn_dim": FFN,
    "max_len": MAX_LEN,
}


def config(package: Any) -> Any:
    return package.models.EncoderConfig(**ENCODER)


@dataclass(frozen=True)
class Example:
    """One class of both mirrors, and the inputs that it takes."""

    name: str
    arguments: Callable[[Any], dict[str, Any]]
    inputs: tuple[str, ...]

    def cls(self, package: Any) -> type:
        return getattr(package, self.name, None) or getattr(package.models, self.name)


EXAMPLES = (
    Example("MultiHeadSelfAttention", lambda _: {"embed_dim": EMBED, "num_heads": HEADS}, ("x", "mask")),
    Example(
        "EncoderDecoderAttention",
        lambda _: {"embed_dim": EMBED, "num_heads": HEADS, "ffn_dim": FFN, "activation": "gelu"},
        ("x", "memory", "self_mask"),
    ),
    Example("Encoder", lambda package: {"config": config(package)}, ("tokens", "mask")),
)
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def torch_module(example: Example, seed: int = 0, **options: Any) -> torch.nn.Module:
    module = example.cls(torch_attention)(**example.arguments(torch_attention), **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return module


def linen_module(example: Example, **options: Any) -> linen.Module:
    return bridge.to_linen(example.cls(jax_attention), **example.arguments(jax_attention), **options)


@pytest.fixture
def numbers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    mask = rng.random((BATCH, HEADS, LENGTH, LENGTH)) < 0.7
    mask[1, 2, 3] = False
    return {
        "x": rng.standard_normal((BATCH, LENGTH, EMBED)).astype(np.float32),
        "memory": rng.standard_normal((BATCH, MEMORY, EMBED)).astype(np.float32),
        "tokens": rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32),
        "mask": mask,
        "self_mask": mask,
    }


def given(example: Example, numbers: dict[str, np.ndarray], array: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: array(numbers[name]) for name in example.inputs}


def torch_outputs(
    example: Example, module: torch.nn.Module, numbers: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    result = module(**given(example, numbers, torch.from_numpy), need_weights=True)
    return {name: x.detach().numpy() for name, x in named_outputs(result).items()}


def assert_equal_outputs(result: Any, expected: dict[str, np.ndarray]) -> None:
    found = named_outputs(result)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert error(np.asarray(x), expected[name].astype(np.float64)) < BOUND, name


def evaluated(module: nnx.Module, *args: Any, **kwargs: Any) -> Any:
    """An `nnx_method` that runs without dropout: Flax's bridge builds modules in training mode."""
    module.eval()
    return module(*args, **kwargs)


@each_example
def test_linen_module_with_torch_weights_gives_torch_outputs(
    example: Example, numbers: dict[str, np.ndarray]
) -> None:
    ours, theirs = torch_module(example), linen_module(example)
    arrays = given(example, numbers, jnp.asarray)
    empty = theirs.init(jax.random.key(0), **arrays)
    filled = transfer(ours, empty)
    chex.assert_trees_all_equal_shapes_and_dtypes(filled, empty)
    chex.assert_tree_all_finite(filled)

    expected = torch_outputs(example, ours, numbers)
    assert any("weights" in name for name in expected)
    assert_equal_outputs(theirs.apply(filled, **arrays, need_weights=True), expected)
    compiled = jax.jit(lambda variables, arrays: theirs.apply(variables, **arrays, need_weights=True))
    assert_equal_outputs(compiled(filled, arrays), expected)


@each_example
def test_weights_survive_torch_to_linen_to_torch_bit_for_bit(
    example: Example, numbers: dict[str, np.ndarray]
) -> None:
    source, target = torch_module(example), torch_module(example, seed=1)
    empty = linen_module(example).init(jax.random.key(0), **given(example, numbers, jnp.asarray))
    transfer(transfer(source, empty), target)
    for name, parameter in source.state_dict().items():
        assert torch.equal(parameter, target.state_dict()[name]), name


@pytest.mark.slow
@each_example
def test_gradients_in_linen_equal_those_in_torch(
    example: Example, numbers: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    ours, theirs = torch_module(example), linen_module(example)
    arrays = given(example, numbers, jnp.asarray)
    filled = transfer(ours, theirs.init(jax.random.key(0), **arrays))
    pull = rng.standard_normal((BATCH, LENGTH, EMBED)).astype(np.float32)

    output = ours(**given(example, numbers, torch.from_numpy)).output
    used = {name: parameter for name, parameter in ours.named_parameters() if "pooler" not in name}
    gradients = torch.autograd.grad((output * torch.from_numpy(pull)).sum(), list(used.values()))

    @jax.jit
    @jax.grad
    def linen_gradients(variables: Any) -> jax.Array:
        return (theirs.apply(variables, **arrays).output * pull).sum()

    tree = linen_gradients(filled)["params"]
    flat = {
        ".".join(map(str, path)): np.asarray(x) for path, x in nnx.traversals.flatten_mapping(tree).items()
    }
    hub, _ = convert(flat, "linen", "torch_attention")
    assert hub.keys() == dict(ours.named_parameters()).keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    for name, gradient in zip(used, gradients, strict=True):
        right = gradient.numpy().astype(np.float64)
        # In theory the gradient of a key bias is zero: its error is measured relative to the largest gradient.
        scale = largest if name.endswith("k_proj.bias") else None
        assert error(hub[name], right, scale) < 10 * BOUND, name
    for name in hub.keys() - used.keys():
        assert not hub[name].any(), name


class Tagger(linen.Module):
    """A user's Linen module that contains one module of this package."""

    num_tags: int

    @linen.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, Any]:
        encoder = bridge.to_linen(jax_attention.models.Encoder, config=config(jax_attention), name="encoder")
        read = encoder(tokens, mask, need_weights=True)
        return linen.Dense(self.num_tags, name="tags")(read.last_hidden_state), read.attentions


class Reader(linen.Module):
    """A user's Linen module with `setup` that contains two modules of this package."""

    def setup(self) -> None:
        self.first = bridge.to_linen(jax_attention.MultiHeadSelfAttention, EMBED, HEADS)
        self.second = bridge.to_linen(jax_attention.CausalSelfAttention, EMBED, HEADS)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, Any, Any]:
        x, first = self.first(x)
        x, second = self.second(x)
        return x, first, second


@pytest.mark.slow
def test_module_inside_a_linen_parent_is_filled_and_run(numbers: dict[str, np.ndarray]) -> None:
    ours = torch.nn.ModuleDict({"encoder": torch_module(EXAMPLES[2]), "tags": torch.nn.Linear(EMBED, 4)})
    parent = Tagger(num_tags=4)
    tokens, mask = (jnp.asarray(numbers[name]) for name in ("tokens", "mask"))
    filled = transfer(ours, parent.init(jax.random.key(0), tokens, mask))
    expected = ours["encoder"](**given(EXAMPLES[2], numbers, torch.from_numpy), need_weights=True)
    scores, weights = jax.jit(parent.apply)(filled, tokens, mask)
    assert error(np.asarray(scores), ours["tags"](expected.output).detach().numpy()) < BOUND
    for layer, right in zip(weights, expected.weights, strict=True):
        assert error(np.asarray(layer), right.detach().numpy()) < BOUND


@pytest.mark.slow
def test_two_modules_in_a_linen_parent_keep_separate_weights(
    numbers: dict[str, np.ndarray],
) -> None:
    ours = torch.nn.ModuleDict(
        {
            "first": torch_module(EXAMPLES[0]),
            "second": transfer(
                torch_module(EXAMPLES[0], seed=1), torch_attention.CausalSelfAttention(EMBED, HEADS)
            ),
        }
    )
    parent, x = Reader(), jnp.asarray(numbers["x"])
    filled = transfer(ours, parent.init(jax.random.key(0), x))
    hidden, first = ours["first"](torch.from_numpy(numbers["x"]))
    output, second = ours["second"](hidden)
    for found, right in zip(parent.apply(filled, x), (output, first, second), strict=True):
        assert error(np.asarray(found), right.detach().numpy()) < BOUND


def test_linen_tree_of_another_width_raises(numbers: dict[str, np.ndarray]) -> None:
    wide = bridge.to_linen(jax_attention.MultiHeadSelfAttention, EMBED + HEADS, HEADS)
    empty = wide.init(jax.random.key(0), jnp.zeros((BATCH, LENGTH, EMBED + HEADS)))
    with pytest.raises(ConversionError, match="wrong shape"):
        transfer(torch_module(EXAMPLES[0]), empty)


def test_dropout_uses_linens_rng_stream_and_is_off_in_evaluation(numbers: dict[str, np.ndarray]) -> None:
    ours, theirs = torch_module(EXAMPLES[0], dropout=0.5), linen_module(EXAMPLES[0], dropout=0.5)
    x = jnp.asarray(numbers["x"])
    keys = {name: jax.random.key(seed) for seed, name in enumerate(("params", "dropout"))}
    filled = transfer(ours, theirs.init(keys, x))
    first, again, other = (
        theirs.apply(filled, x, rngs={"dropout": jax.random.key(seed)}).output for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    assert error(np.asarray(first), np.asarray(other, np.float64)) > 0.1
    expected = ours(torch.from_numpy(numbers["x"])).output.detach().numpy()
    assert error(np.asarray(first), expected) > 0.1
    assert error(np.asarray(theirs.apply(filled, x, nnx_method=evaluated).output), expected) < BOUND


@pytest.mark.slow
def test_dropout_mask_through_the_bridge_replaces_a_sampled_one(
    numbers: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    ours, theirs = torch_module(EXAMPLES[0], dropout=0.5), linen_module(EXAMPLES[0], dropout=0.5)
    x, keep = numbers["x"], rng.random((BATCH, HEADS, LENGTH, LENGTH)) < 0.5
    keys = {name: jax.random.key(seed) for seed, name in enumerate(("params", "dropout"))}
    filled = transfer(ours, theirs.init(keys, jnp.asarray(x)))
    expected = ours(torch.from_numpy(x), dropout_keep=torch.from_numpy(keep)).output.detach().numpy()
    found = theirs.apply(filled, jnp.asarray(x), dropout_keep=jnp.asarray(keep)).output
    assert error(np.asarray(found), expected) < BOUND
