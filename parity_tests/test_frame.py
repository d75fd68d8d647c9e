"""The frame of attention by dot products: siblings take the same arguments, by name, and keep their parameters."""

import inspect
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge import instances
from attention_bridge.catalogue import CATALOGUE
from attention_bridge.weights import transfer

PACKAGES = {"torch": torch_attention, "jax": jax_attention}
CALLS = {"torch": "forward", "jax": "__call__"}
NAMES = json.loads((Path(__file__).parent / "fixtures" / "parameter_names.json").read_text())

SELF_CALL = {"cache", "need_weights", "dropout_keep", "positions", "implementation", "lengths", "segments"}
CROSS_CALL = {
    "query_positions",
    "key_positions",
    "need_weights",
    "dropout_keep",
    "implementation",
    "query_lengths",
    "key_lengths",
}
CONSTRUCTOR = {"position", "scale", "dropout"}
# What a class does not take, for its paper's equation says it already.
SAID = {
    "CosineAttention": {"scale"},  # a learned one
    "ShawSelfAttention": {"position", "scale"},  # its own scheme
    "StreamingAttention": {"positions", "lengths", "segments"},  # they follow from the cache
}


def framed(mirror, base):
    """The classes of a mirror on that base."""
    package = PACKAGES[mirror]
    kind = getattr(package.frame, base)
    return {
        name: thing
        for name, thing in vars(package).items()
        if inspect.isclass(thing) and issubclass(thing, kind)
    }


@pytest.mark.parametrize("mirror", PACKAGES)
@pytest.mark.parametrize(
    ("base", "call"), [("SelfAttentionFrame", SELF_CALL), ("CrossAttentionFrame", CROSS_CALL)]
)
def test_siblings_take_the_same_arguments(mirror, base, call):
    classes = framed(mirror, base)
    assert len(classes) >= (2 if base.startswith("Cross") else 22)
    for name, kind in classes.items():
        said = SAID.get(name, set())
        taken = inspect.signature(getattr(kind, CALLS[mirror])).parameters
        assert call - taken.keys() == call & said, name
        made = inspect.signature(kind.__init__).parameters
        assert CONSTRUCTOR - made.keys() == CONSTRUCTOR & said, name


@pytest.mark.parametrize("mirror", PACKAGES)
def test_every_argument_is_shown_by_name(mirror):
    for kind in vars(PACKAGES[mirror]).values():
        if inspect.isclass(kind) and issubclass(kind, torch.nn.Module | nnx.Module):
            for name in {"__init__", CALLS[mirror]} & vars(kind).keys():
                kinds = {x.kind for x in inspect.signature(vars(kind)[name]).parameters.values()}
                assert inspect.Parameter.VAR_KEYWORD not in kinds, kind


def test_an_argument_that_no_class_has_is_refused():
    with pytest.raises(TypeError, match="forward\\(\\) got an unexpected keyword argument 'causal'"):
        torch_attention.CausalSelfAttention(8, 2)(torch.ones(1, 3, 8), causal=True)
    layer = jax_attention.CausalSelfAttention(8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="__call__\\(\\) got an unexpected keyword argument 'causal'"):
        layer(jnp.ones((1, 3, 8)), causal=True)
    with pytest.raises(TypeError, match="__init__\\(\\) got an unexpected keyword argument 'drop'"):
        torch_attention.CausalSelfAttention(8, 2, drop=0.1)


@pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda each: each.name)
def test_parameters_keep_their_names_and_shapes(mechanism):
    state = instances.torch_module(mechanism, "float32").state_dict()
    assert {name: list(x.shape) for name, x in state.items()} == NAMES[mechanism.name]


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_implementation_reaches_modules(implementation):
    torch.manual_seed(0)
    layer, x = torch_attention.GroupedQueryAttention(12, 6, 2, is_causal=True), torch.randn(2, 7, 12)
    right = layer(x).output
    found = layer(x, need_weights=False, implementation=implementation)
    torch.testing.assert_close(found.output, right)
    mirrored = jax_attention.GroupedQueryAttention(12, 6, 2, is_causal=True, rngs=nnx.Rngs(0))
    transfer(layer, mirrored)
    found = mirrored(jnp.asarray(x.numpy()), need_weights=False, implementation=implementation)
    np.testing.assert_allclose(found.output, right.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "exception", "text"),
    [
        (
            {"need_weights": False, "implementation": "flash"},
            ValueError,
            "implementation must be None or one of",
        ),
        (
            {"implementation": "blockwise"},
            NotImplementedError,
            "weights are made by implementation='reference' alone, got 'blockwise'",
        ),
    ],
)
def test_implementation_that_cannot_be_is_refused(options, exception, text):
    layer = torch_attention.CausalSelfAttention(8, 2)
    mirrored = jax_attention.CausalSelfAttention(8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(exception, match=text):
        layer(torch.ones(1, 3, 8), **options)
    with pytest.raises(exception, match=text):
        mirrored(jnp.ones((1, 3, 8)), **options)


def test_weights_that_are_no_softmax_have_the_reference_alone():
    layer = torch_attention.SparsemaxAttention(8, 2)
    assert layer(torch.ones(1, 3, 8), need_weights=False, implementation="reference").weights is None
    with pytest.raises(NotImplementedError, match="weights that are no softmax"):
        layer(torch.ones(1, 3, 8), need_weights=False, implementation="blockwise")
