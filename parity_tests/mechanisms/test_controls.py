"""Negative controls: each known mistake is put into one mirror, and the proof must detect it.

Every control first passes on the correct code. Then one line of one mirror is changed, and the same proof must report
that this mirror, and only this one, is wrong.
"""

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from types import FunctionType
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge import oracles
from attention_bridge.catalogue import Mechanism, select
from attention_bridge.parity import instances
from attention_bridge.parity import run as running
from attention_bridge.parity.comparison import Difference, error, tolerances
from attention_bridge.parity.instances import parameters
from attention_bridge.parity.proof import prove_case, wrong_slopes
from attention_bridge.parity.run import Arrays, on_bfloat16_grid
from attention_bridge.weights import transfer


@dataclass(frozen=True)
class Mirror:
    """A mirror, and the code fragments that differ between the two."""

    package: str
    module: type
    words: dict[str, str]


MIRRORS = {
    "torch": Mirror("torch_attention", torch.nn.Module, {"xp": "torch", "call": "forward"}),
    "jax": Mirror("jax_attention", nnx.Module, {"xp": "jnp", "call": "__call__"}),
}
Damage = Callable[[Mirror], AbstractContextManager[None]]


@contextmanager
def edited(where: str, old: str, new: str, mirror: Mirror) -> Iterator[None]:
    """A context in which `old` is replaced by `new` in the source of the function `file:name`."""
    where, old, new = (text.format(**mirror.words) for text in (where, old, new))
    file, name = where.split(":")
    found = importlib.import_module(f"{mirror.package}.{file}")
    for part in name.split("."):
        found = getattr(found, part)
    function = inspect.unwrap(found)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old} occurs {source.count(old)} times in {where}"
    namespace: dict[str, Any] = {}
    exec(source.replace(old, new), {**function.__globals__}, namespace)
    changed = inspect.unwrap(namespace[function.__name__])
    assert isinstance(function, FunctionType)
    healthy = function.__code__
    function.__code__ = changed.__code__  # in place, so that modules that imported it see the change
    try:
        yield
    finally:
        function.__code__ = healthy


@contextmanager
def not_transposed(name: str, mirror: Mirror) -> Iterator[None]:
    """A context in which one square matrix is transposed, as by a conversion without its transpose."""

    def forgetful(source: Arrays, target: Any) -> Any:
        wrong = {**source, name: np.ascontiguousarray(source[name].T)}
        return transfer(wrong if isinstance(target, mirror.module) else source, target)

    with mock.patch.object(instances, "transfer", forgetful):
        yield


@contextmanager
def rebuilt(mirror: str) -> Iterator[None]:
    """A context that shares no built or compiled module with the code outside."""
    forget = {
        "torch": (instances.torch_module.cache_clear,),
        "jax": (instances.jax_module.cache_clear, running.forward_backward.clear_cache),
    }[mirror]
    for each in forget:
        each()
    try:
        yield
    finally:
        for each in forget:
            each()


@dataclass(frozen=True)
class Control:
    """One mistake, with a mechanism and a mask that reveal it."""

    name: str
    damage: Damage
    mechanism: str
    case: str
    dtype: str = "float32"


def edit(where: str, old: str, new: str) -> Damage:
    return partial(edited, where, old, new)


SCORES = "ops.definition:call_scores"
VALUES = "ops.definition:weighted_values"
SOFTMAX = "ops.softmax:masked_softmax"
HEADS = "self_attention:MultiHeadSelfAttention.{call}"
DECODER = "cross_attention:EncoderDecoderAttention.{call}"

CONTROLS = (
    Control(
        "scores are not scaled",
        edit(SCORES, "scores = scores * call.scale", "scores = scores"),
        "SelfAttention",
        "query key",
    ),
    Control(
        "scores are scaled by the features of all heads together",
        edit(
            "ops.call:checked_call", "query.shape[-1] ** -0.5", "(query.shape[-1] * query.shape[-3]) ** -0.5"
        ),
        "MultiHeadSelfAttention",
        "query key",
    ),
    Control(
        "a mask is inverted",
        edit(SOFTMAX, "scores = at_least_float32(scores)", "scores, mask = at_least_float32(scores), ~mask"),
        "SelfAttention",
        "padding",
    ),
    Control(
        "a fully masked row takes the mean of all values",
        edit(SOFTMAX, "return {xp}.where(mask, ", "return {xp}.where(mask | True, "),
        "SelfAttention",
        "empty row",
    ),
    Control(
        "the softmax goes over queries",
        edit(SOFTMAX, "=-1), 0.0)", "=-2), 0.0)"),
        "SelfAttention",
        "batch query key",
    ),
    Control(
        "a query does not attend to its own position",
        edit("ops.rules:sees", "key <= position", "key < position"),
        "CausalSelfAttention",
        "padding",
    ),
    Control(
        "a query attends to the position after its own",
        edit("ops.rules:sees", "key <= position", "key <= position + 1"),
        "CausalSelfAttention",
        "padding",
    ),
    Control(
        "a dropout mask is ignored",
        edit(VALUES, "if dropout_keep is not None", "if False"),
        "SelfAttention",
        "dropout",
    ),
    Control(
        "kept weights are not scaled up",
        edit(VALUES, "weights / (1.0 - dropout_rate)", "weights"),
        "SelfAttention",
        "dropout",
    ),
    Control(
        "the square kernel of the keys is not transposed",
        partial(not_transposed, "k_proj.weight"),
        "SelfAttention",
        "query key",
    ),
    Control(
        "features are assigned to heads in turn",
        edit("ops.heads:split_heads", "(heads head_dim)", "(head_dim heads)"),
        "MultiHeadSelfAttention",
        "query key",
    ),
    Control(
        "a head reads the values of its neighbour",
        edit(
            HEADS,
            "split_heads(self.v_proj(x), self.head_dim)",
            "{xp}.roll(split_heads(self.v_proj(x), self.head_dim), 1, 1)",
        ),
        "MultiHeadSelfAttention",
        "query key",
    ),
    Control(
        "a tanh is missing between the projections and the score",
        edit("attention_basics:additive_features", "{xp}.tanh(", "("),
        "BasicAttention",
        "padding",
    ),
    Control(
        "a residual is missing",
        edit(
            DECODER,
            "x + self.dropout(attended, keep.cross_output)",
            "self.dropout(attended, keep.cross_output)",
        ),
        "EncoderDecoderAttention-pre",
        "padding",
    ),
    Control(
        "GELU has the other form",
        edit(
            "activations:activation_function", "return ACTIVATIONS[name]", 'return ACTIVATIONS["gelu_tanh"]'
        ),
        "EncoderDecoderAttention-pre",
        "padding",
    ),
    Control(
        "the normalisation has Flax's epsilon, 1e-6, in place of PyTorch's, 1e-5",
        edit("norms:layer_norm", "    if unit_offset:", "    eps = 0.1 * eps\n    if unit_offset:"),
        "EncoderDecoderAttention-pre",
        "padding",
        dtype="float64",
    ),
    Control(
        "positions are counted from one",
        edit(
            "models.encoder:Encoder._rows", "self.config.max_len) + first", "self.config.max_len) + first + 1"
        ),
        "Encoder",
        "padding",
    ),
)
SHORT_IN_JAX = 6  # each control is compiled separately
# PyTorch first: the correct JAX half is then compiled once per mechanism, not once per control.
RUNS = [
    pytest.param(
        mirror,
        control,
        id=f"{mirror}: {control.name}",
        marks=pytest.mark.slow if mirror == "jax" and i >= SHORT_IN_JAX else (),
    )
    for mirror in MIRRORS
    for i, control in enumerate(CONTROLS)
]


def only(name: str) -> Mechanism:
    (mechanism,) = select([name])
    return mechanism


@cache
def healthy_failures(mechanism: Mechanism, case: str, dtype: str) -> list[str]:
    return [str(difference) for difference in prove_case(mechanism, case, dtype) if not difference.ok]


def blamed_on(mirror: str, found: list[Difference]) -> list[str]:
    return [d.name for d in found if not getattr(d, f"{mirror}_err") <= d.tolerance]


@pytest.mark.parametrize(("mirror", "control"), RUNS)
def test_proof_finds_a_mirror_where(mirror: str, control: Control) -> None:
    mechanism = only(control.mechanism)
    assert not healthy_failures(mechanism, control.case, control.dtype)
    with rebuilt(mirror), control.damage(MIRRORS[mirror]):
        found = prove_case(mechanism, control.case, control.dtype)
    (other,) = MIRRORS.keys() - {mirror}
    assert "output" in blamed_on(mirror, found), "\n".join(map(str, found))
    assert not blamed_on(other, found), "\n".join(map(str, found))
    assert {d.name for d in found if not d.ok} == set(blamed_on(mirror, found))


def test_proof_finds_the_variance_that_cancels_for_a_large_mean() -> None:
    """E[x^2] - E[x]^2, Flax's default, is as accurate as the plain variance only for a small mean.

    PyTorch's own kernel is inaccurate there too, so only JAX is tested.
    """
    mechanism = replace(only("Encoder"), name="Encoder with large embeddings")
    weights = dict(parameters(mechanism))
    weights["token_embedding.weight"] = on_bfloat16_grid(weights["token_embedding.weight"] + 16.0)
    fast = edit("norms:layer_norm", "learned, use_fast_variance=False", "learned, use_fast_variance=True")
    with mock.patch.object(instances, "parameters", return_value=weights):
        assert not blamed_on("jax", prove_case(mechanism, "padding", "float32"))
        with rebuilt("jax"), fast(MIRRORS["jax"]):
            assert blamed_on("jax", prove_case(mechanism, "padding", "float32"))


# No module has grouped heads, a window or a query offset: these operations are tested against the oracle directly.
BATCH, GROUPS, HEADS_A_GROUP, QUERY, KEY, HEAD_DIM = 2, 3, 2, 5, 7, 4
OP_CONTROLS = {
    "key and value heads are tiled": (edit("ops.heads:repeat_heads", "(g r)", "(r g)"), {}),
    "a window is one key too wide": (
        edit(
            "ops.rules:sees",
            "key >= position - visibility.before",
            "key >= position - visibility.before - 1",
        ),
        {"is_causal": True, "window": 3},
    ),
    "a window does not count the query's own key": (
        edit("ops.rules:sees", "key <= position", "key < position"),
        {"is_causal": True, "window": 3},
    ),
    "queries are never offset": (
        edit("ops.rules:sees", "position = query + _of_batch(", "position = query + 0 * _of_batch("),
        {"is_causal": True, "query_offset": 2},
    ),
    "a bias is left out": (
        edit(SCORES, "scores = scores + at_least_float32(bias)", "scores = scores"),
        {"bias": True},
    ),
    "a bias of -inf is no mask": (
        edit("ops.definition:call_masks", "masks.append(seen)", "pass"),
        {"bias": True},
    ),
    "a softcap comes before the bias": (
        edit(
            SCORES,
            "scores = scores * call.scale",
            "scores = call.softcap * {xp}.tanh(scores * call.scale / call.softcap); call = call._replace(softcap=None)",
        ),
        {"bias": True, "softcap": 1.5},
    ),
    "the fused call gives an empty row the mean of all values": (
        edit("ops.native:native_attention", "{xp}.where(alive, output, 0.0)", "output"),
        {"implementation": "native", "mask": True},
    ),
}


def op_failures(mirror: str, options: dict[str, Any]) -> list[str]:
    """The results of `dot_product_attention` that differ from the oracle by more than float32 rounding."""
    rng = np.random.default_rng(3)
    shapes = [(BATCH, GROUPS * HEADS_A_GROUP, QUERY, HEAD_DIM), *[(BATCH, GROUPS, KEY, HEAD_DIM)] * 2]
    arguments = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    given, named = dict(options), {}
    if given.pop("bias", False):
        bias = rng.standard_normal((BATCH, GROUPS * HEADS_A_GROUP, QUERY, KEY)).astype(np.float32)
        named["bias"] = np.where(rng.random(bias.shape) < 0.2, np.float32(-np.inf), bias)
    if given.pop("mask", False):
        named["mask"] = rng.random((BATCH, GROUPS * HEADS_A_GROUP, QUERY, KEY)) < 0.7
        named["mask"][1, 2, 3] = False
    implementation = given.pop("implementation", "reference")

    package = importlib.import_module(f"{MIRRORS[mirror].package}.ops")
    native = importlib.import_module(f"{MIRRORS[mirror].package}.ops.native").NATIVE[0].name
    array = torch.from_numpy if mirror == "torch" else jnp.asarray
    ours = package.dot_product_attention(
        *map(array, arguments),
        **{name: array(x) for name, x in named.items()},
        **given,
        implementation=native if implementation == "native" else implementation,
    )
    right, _ = oracles.dot_product_attention(
        *(x.astype(np.float64) for x in arguments),
        **{name: x.astype(np.float64) if name == "bias" else x for name, x in named.items()},
        **given,
    )
    found = error(np.asarray(ours), right)
    return [f"error {found:.1e}"] if found > tolerances("float32", HEAD_DIM + KEY)["output"] else []


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("control", OP_CONTROLS)
def test_oracle_finds_an_operation_where(control: str, mirror: str) -> None:
    damage, options = OP_CONTROLS[control]
    assert not op_failures(mirror, options)
    with damage(MIRRORS[mirror]):
        assert op_failures(mirror, options)
    assert not op_failures(mirror, options)


@pytest.mark.parametrize("factor", [1.001, 0.0, np.nan])
@pytest.mark.parametrize("name", ["k_proj.weight", "v_proj.bias", "x"])
def test_oracle_with_a_wrong_gradient_is_detected(name: str, factor: float) -> None:
    """Both mirrors against the oracle: a mistake in both shows in derivatives along random directions."""
    (mechanism,) = select(["MultiHeadSelfAttention"])

    def bent(weights: Arrays, **given: Any) -> Any:
        """Change the derivative with respect to `name`, but no output."""
        tensors = {**weights, **given}
        if np.iscomplexobj(tensors[name]):
            tensors[name] = tensors[name].real + 1j * factor * tensors[name].imag
        return mechanism.oracle(
            {key: tensors[key] for key in weights}, **{key: tensors[key] for key in given}
        )

    assert wrong_slopes(mechanism) == ()
    with np.errstate(invalid="ignore"):
        (found,) = wrong_slopes(replace(mechanism, oracle=bent))
    assert f"gradient {name} " in found
