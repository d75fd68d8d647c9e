"""The frame of attention by dot products: siblings take the same arguments, by name, and keep their parameters."""

import inspect
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge import instances
from attention_bridge.catalogue import CATALOGUE

PACKAGES = {"torch": torch_attention, "jax": jax_attention}
CALLS = {"torch": "forward", "jax": "__call__"}
NAMES = json.loads((Path(__file__).parent / "fixtures" / "parameter_names.json").read_text())

SELF_CALL = {"cache", "need_weights", "dropout_keep", "positions"}
CROSS_CALL = {"query_positions", "key_positions", "need_weights", "dropout_keep"}
CONSTRUCTOR = {"position", "scale", "dropout"}
# What a class does not take, for its paper's equation says it already.
SAID = {
    "CosineAttention": {"scale"},  # a learned one
    "ShawSelfAttention": {"position", "scale"},  # its own scheme
    "StreamingAttention": {"positions"},  # they follow from the cache
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
