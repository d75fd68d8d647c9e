"""The shared interface of dot-product attention: sibling classes have the same arguments and parameter names."""

import inspect
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, select
from attention_bridge.parity import instances
from attention_bridge.weights import transfer

PACKAGES = {"torch": torch_attention, "jax": jax_attention}
CALLS = {"torch": "forward", "jax": "__call__"}
NAMES = json.loads((Path(__file__).parents[1] / "fixtures" / "parameter_names.json").read_text())

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
# Arguments that a class leaves out, because its equation fixes them.
SAID = {
    "CosineAttention": {"scale"},  # learned
    "ShawSelfAttention": {"position", "scale"},  # has its own positional encoding
    "StreamingAttention": {"positions", "lengths", "segments"},  # the cache determines them
    "NativeSparseAttention": {"scale", "dropout", "dropout_keep"},  # three kinds of weights
    "DeepSeekSparseAttention": CONSTRUCTOR,  # arguments of the attention that it wraps
}


def framed(mirror, base):
    """The classes of a mirror that derive from `base`."""
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
    assert len(classes) >= (3 if base.startswith("Cross") else 30)
    if base == "SelfAttentionFrame":
        classes["DeepSeekSparseAttention"] = PACKAGES[mirror].DeepSeekSparseAttention  # it has the argument
    for name, kind in classes.items():
        said = SAID.get(name, set())
        taken = inspect.signature(getattr(kind, CALLS[mirror])).parameters
        assert call - taken.keys() == call & said, name
        made = inspect.signature(kind.__init__).parameters
        assert CONSTRUCTOR - made.keys() == CONSTRUCTOR & said, name


@pytest.mark.parametrize("mirror", PACKAGES)
def test_every_argument_has_a_name(mirror):
    for kind in vars(PACKAGES[mirror]).values():
        if inspect.isclass(kind) and issubclass(kind, torch.nn.Module | nnx.Module):
            for name in {"__init__", CALLS[mirror]} & vars(kind).keys():
                kinds = {x.kind for x in inspect.signature(vars(kind)[name]).parameters.values()}
                assert inspect.Parameter.VAR_KEYWORD not in kinds, kind


def test_unknown_argument_raises():
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
    "mechanism",
    select(["LongformerAttention", "BigBirdAttention", "NativeSparseAttention", "DeepSeekSparseAttention"]),
    ids=lambda each: each.name,
)
def test_implementation_reaches_patterns_and_choices(mechanism):
    layer = instances.torch_module(mechanism, "float32")
    x = torch.from_numpy(instances.inputs(mechanism, "none")["x"].astype(np.float32))
    found = layer(x, need_weights=False, implementation="blockwise")
    torch.testing.assert_close(found.output, layer(x).output)
    with pytest.raises(ValueError, match="implementation must be None or one of"):
        layer(x, need_weights=False, implementation="flash")


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
            "weights are computed by implementation='reference' alone, got 'blockwise'",
        ),
    ],
)
def test_unsupported_implementation_raises(options, exception, text):
    layer = torch_attention.CausalSelfAttention(8, 2)
    mirrored = jax_attention.CausalSelfAttention(8, 2, rngs=nnx.Rngs(0))
    with pytest.raises(exception, match=text):
        layer(torch.ones(1, 3, 8), **options)
    with pytest.raises(exception, match=text):
        mirrored(jnp.ones((1, 3, 8)), **options)


def test_weights_other_than_softmax_use_the_reference():
    layer = torch_attention.SparsemaxAttention(8, 2)
    assert layer(torch.ones(1, 3, 8), need_weights=False, implementation="reference").weights is None
    with pytest.raises(NotImplementedError, match="weights that are not a softmax"):
        layer(torch.ones(1, 3, 8), need_weights=False, implementation="blockwise")


def arrays(mirror, x):
    return torch.from_numpy(x) if mirror == "torch" else jnp.asarray(x)


def framed_mechanisms():
    """The catalogue entries whose classes take lengths and segments."""
    found = []
    for mechanism in CATALOGUE:
        kind = getattr(torch_attention, mechanism.module.name, None)
        if kind is not None and "lengths" in inspect.signature(kind.forward).parameters:
            found.append(mechanism)
    return found


@pytest.mark.parametrize("mechanism", framed_mechanisms(), ids=lambda each: each.name)
def test_lengths_and_segments_equal_masks_in_torch(mechanism):
    restrictions_are_masks("torch", mechanism)


@pytest.mark.parametrize(
    "mechanism",
    select(
        ["GroupedQueryAttention", "TopKAttention", "AbsorbedLatentAttention", "PersistentMemoryAttention"]
    ),
    ids=lambda each: each.name,
)
def test_lengths_and_segments_equal_masks_in_jax(mechanism):
    restrictions_are_masks("jax", mechanism)


def restrictions_are_masks(mirror, mechanism):
    build = instances.torch_module if mirror == "torch" else instances.jax_module
    module = build(mechanism, "float32")
    x = instances.inputs(mechanism, "none")["x"].astype(np.float32)
    batch, length = x.shape[:2]
    lengths = np.array([length - 2, length, 1][:batch])
    segments = np.sort(np.random.default_rng(0).integers(0, 3, (batch, length)))
    there = np.arange(length) < lengths[:, None]  # batch length
    seen = there[:, None, :, None] & there[:, None, None]
    seen = seen & (segments[:, None, :, None] == segments[:, None, None])  # batch 1 query key
    given = {"lengths": arrays(mirror, lengths), "segments": arrays(mirror, segments)}
    right = module(arrays(mirror, x), arrays(mirror, seen))
    for need_weights in (True, False):
        found = module(arrays(mirror, x), **given, need_weights=need_weights)
        for one, other in zip(found, right, strict=True):
            if one is not None:
                one, other = (
                    np.asarray(each.detach() if mirror == "torch" else each) for each in (one, other)
                )
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    changed = np.where(there[..., None], x, 1e3).astype(np.float32)
    found = module(arrays(mirror, changed), **given, need_weights=False).output
    kept = np.asarray(found.detach() if mirror == "torch" else found)[there]
    expected = np.asarray(right.output.detach() if mirror == "torch" else right.output)[there]
    np.testing.assert_allclose(kept, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "sizes"), [("MultiHeadCrossAttention", (6, 8, 12, 3)), ("ScaledDotProductAttention", ())]
)
@pytest.mark.parametrize("mirror", PACKAGES)
def test_lengths_and_segments_of_two_sequences_equal_masks(mirror, name, sizes):
    torch.manual_seed(0)
    layer = getattr(torch_attention, name)(*sizes)
    if mirror == "jax":
        mirrored = getattr(jax_attention, name)(*sizes, rngs=nnx.Rngs(0))
        transfer(layer, mirrored)
        layer = mirrored
    rng = np.random.default_rng(1)
    query, memory = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 6), (2, 7, 8)))
    query_lengths, key_lengths = np.array([5, 3]), np.array([4, 7])
    query_segments, key_segments = rng.integers(0, 2, (2, 5)), rng.integers(0, 2, (2, 7))
    seen = (np.arange(5) < query_lengths[:, None])[:, :, None] & (np.arange(7) < key_lengths[:, None])[
        :, None
    ]
    seen = seen & (query_segments[:, :, None] == key_segments[:, None])  # batch query key
    query, memory, seen, *given = (
        arrays(mirror, x)
        for x in (query, memory, seen, query_lengths, key_lengths, query_segments, key_segments)
    )
    sequences = (query, memory) if sizes else (query, memory[..., :6], memory)
    names = "query_lengths", "key_lengths", "query_segments", "key_segments"
    found = layer(*sequences, **dict(zip(names, given, strict=True))).output
    right = layer(*sequences, seen).output
    found, right = (np.asarray(x.detach() if mirror == "torch" else x) for x in (found, right))
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lengths": [3, 2, 1]}, "lengths must have shape (batch) = (2,), got (3,)"),
        ({"segments": [[0, 1]]}, "segments must have shape (batch, length) = (2, 3), got (1, 2)"),
    ],
)
def test_bad_lengths_and_segments_raise_the_same_error(options, text):
    layer = torch_attention.CausalSelfAttention(8, 2)
    mirrored = jax_attention.CausalSelfAttention(8, 2, rngs=nnx.Rngs(0))
    for mirror, module, x in (("torch", layer, torch.ones(2, 3, 8)), ("jax", mirrored, jnp.ones((2, 3, 8)))):
        given = {name: arrays(mirror, np.array(value)) for name, value in options.items()}
        with pytest.raises(ValueError, match=re.escape(text)):
            module(x, **given)


def test_lengths_with_a_cache_raise():
    layer = torch_attention.CausalSelfAttention(8, 2)
    with pytest.raises(ValueError, match="lengths must be None with a cache, got shape \\(1,\\)"):
        layer(torch.ones(1, 3, 8), cache=torch_attention.GrowingCache(), lengths=torch.tensor([2]))


@pytest.mark.parametrize(
    "name", ["SlidingWindowAttention", "ChunkedAttention", "LongformerAttention", "BigBirdAttention"]
)
@pytest.mark.parametrize("mirror", PACKAGES)
def test_blocks_are_not_used_with_lengths_segments_or_implementations(mirror, name):
    """Tested with a mask, for sequences long enough to be split into blocks."""
    torch.manual_seed(0)
    layer = getattr(torch_attention, name)(8, 2, 3)
    if mirror == "jax":
        mirrored = getattr(jax_attention, name)(8, 2, 3, rngs=nnx.Rngs(0))
        transfer(layer, mirrored)
        layer = mirrored
    x = np.random.default_rng(0).standard_normal((2, 300, 8)).astype(np.float32)
    mask = np.random.default_rng(1).random((2, 1, 300, 300)) < 0.8
    lengths, segments = np.array([150, 300]), np.arange(300)[None].repeat(2, 0) // 2
    assert layer.is_cut(need_weights=False)
    x, mask, lengths, segments = (arrays(mirror, each) for each in (x, mask, lengths, segments))
    for given in ({"lengths": lengths}, {"segments": segments}, {"implementation": "reference"}):
        found = layer(x, mask, need_weights=False, **given).output
        weights = {name: value for name, value in given.items() if name != "implementation"}
        right = layer(x, mask, **weights).output
        found, right = (np.asarray(each.detach() if mirror == "torch" else each) for each in (found, right))
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
        assert not layer.is_cut(need_weights=False, **given)
