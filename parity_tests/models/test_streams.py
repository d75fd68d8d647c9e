"""Parts of Gemma 3n: a residual stream in parts, alternating updates, LAuReL, sparse gates; against float64 NumPy."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.oracles.common import gelu_tanh, linear, rms_norm
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.weights import transfer
from parity_tests.helpers.built import each_mirror

BATCH, LENGTH, EMBED, STREAMS, RANK, FFN, VOCAB, EPS = 2, 5, 6, 3, 4, 7, 11, 1e-6
ACTIVE, SPARSITY = 1, 0.6
PARTS = {
    "streams": Part("ResidualStreams", {"embed_dim": EMBED, "num_streams": STREAMS}),
    "updates": Part("AlternatingUpdates", {"embed_dim": EMBED, "num_streams": STREAMS, "active": ACTIVE}),
    "laurel": Part("LearnedAugmentedResidual", {"embed_dim": EMBED, "rank": RANK}),
    "sparse": Part("SparseGatedFeedForward", {"embed_dim": EMBED, "ffn_dim": FFN, "sparsity": SPARSITY}),
}


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def difference(one, other):
    return np.abs(numpy(one) - other).max() / np.abs(other).max()


def weights_of(part):
    torch.manual_seed(0)
    return {
        name: torch.randn_like(x).numpy()
        for name, x in build(part, "torch_attention", {}).state_dict().items()
    }


def made_in(mirror, part, weights):
    made = build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    made.eval()
    return transfer(dict(weights), made)


def wide(weights):
    return {name: x.astype(np.float64) for name, x in weights.items()}


def size(x):
    return np.sqrt((x**2).mean(-1, keepdims=True))


def split(p, x):
    """The parts of the residual stream, along axis 2."""
    parts = [x]
    for n in range(STREAMS - 1):
        y = x @ p[f"split.{n}.proj.weight"].T
        parts.append(y * size(x) / size(y))
    return np.stack(parts, 2)


def joined(p, streams):
    parts = [streams[:, :, 0]]
    for n in range(STREAMS - 1):
        y = streams[:, :, n + 1] @ p[f"merge.{n}.proj.weight"].T
        parts.append(y * size(parts[0]) / size(y))
    return sum(parts) / STREAMS


def features(p, x):
    return np.tanh(linear(p, "router", rms_norm(p, "router_norm", x, EPS) / EMBED))


def predicted(p, streams):
    """Each part plus a sum over all parts, coefficient by coefficient."""
    mode, found = features(p, streams[:, :, ACTIVE]), streams.copy()
    for i in range(STREAMS):
        for j in range(STREAMS):
            coefficient = mode @ p["prediction_proj.weight"][i * STREAMS + j]
            found[:, :, i] += coefficient[..., None] * streams[:, :, j]
    return found


def corrected(p, streams, x):
    mode, found = features(p, x), streams.copy()
    for i in range(STREAMS):
        coefficient = 1 + mode @ p["correction_proj.weight"][i]
        found[:, :, i] += coefficient[..., None] * (x - streams[:, :, ACTIVE])
    return found


def laurel(p, x):
    return x + rms_norm(p, "norm", linear(p, "right_proj", linear(p, "left_proj", x)), EPS)


def sparse(p, x):
    gate = linear(p, "gate_proj", x)
    threshold = gate.mean(-1, keepdims=True) + NormalDist().inv_cdf(SPARSITY) * gate.std(-1, keepdims=True)
    return linear(p, "down_proj", gelu_tanh(np.maximum(gate - threshold, 0)) * linear(p, "up_proj", x))


def calls(rng):
    """Each part by name: a call of the module, and its reference."""
    x, streams = (
        rng.standard_normal((BATCH, LENGTH, EMBED)),
        rng.standard_normal((BATCH, LENGTH, STREAMS, EMBED)),
    )
    return {
        "parts": ("streams", lambda made, x: made(x), split, (x,)),
        "joined parts": ("streams", lambda made, x: made.join(x), joined, (streams,)),
        "prediction": ("updates", lambda made, x: made.predict(x), predicted, (streams,)),
        "correction": ("updates", lambda made, x, y: made.correct(x, y), corrected, (streams, x)),
        "laurel": ("laurel", lambda made, x: made(x), laurel, (x,)),
        "sparse gates": ("sparse", lambda made, x: made(x), sparse, (x,)),
    }


NAMES = ("parts", "joined parts", "prediction", "correction", "laurel", "sparse gates")


@pytest.mark.parametrize("name", NAMES)
@each_mirror
def test_part_equals_a_numpy_reference(mirror, name, rng):
    part, call, reference, given = calls(rng)[name]
    weights = weights_of(PARTS[part])
    found = call(made_in(mirror, PARTS[part], weights), *(mirror.array(x.astype(np.float32)) for x in given))
    near = [x.astype(np.float32).astype(np.float64) for x in given]
    assert difference(found, reference(wide(weights), *near)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_part_in_float64_equals_the_reference(name, rng):
    part, call, reference, given = calls(rng)[name]
    weights = wide(weights_of(PARTS[part]))
    made = transfer(weights, build(PARTS[part], "torch_attention", {}).double())
    assert difference(call(made, *map(torch.from_numpy, given)), reference(weights, *given)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@each_mirror
def test_gradient_of_a_part_equals_differences_of_the_reference(mirror, name, rng):
    part, call, reference, given = calls(rng)[name]
    weights, x, step = weights_of(PARTS[part]), given[0][:1, :2], 1e-6
    rest = [y[:1, :2] for y in given[1:]]
    slope = rng.standard_normal(reference(wide(weights), x, *rest).shape)
    expected = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        both = []
        for side in (step, -step):
            moved = x.copy()
            moved[at] += side
            both.append((reference(wide(weights), moved, *rest) * slope).sum())
        expected[at] = (both[0] - both[1]) / (2 * step)
    made = made_in(mirror, PARTS[part], weights)
    others = [mirror.array(y.astype(np.float32)) for y in rest]
    if mirror.name == "torch":
        array = torch.from_numpy(x.astype(np.float32)).requires_grad_()
        (call(made, array, *others) * torch.from_numpy(slope.astype(np.float32))).sum().backward()
        found = array.grad
    else:
        found = jax.grad(lambda x: (call(made, x, *others) * slope.astype(np.float32)).sum())(
            jnp.asarray(x, jnp.float32)
        )
    assert difference(found, expected) < 1e-4


@pytest.mark.parametrize("part", ["streams", "sparse"])
@each_mirror
def test_gradient_at_zero_is_finite(mirror, part):
    made = made_in(mirror, PARTS[part], weights_of(PARTS[part]))
    x = np.zeros((1, 2, EMBED), np.float32)
    if mirror.name == "torch":
        array = torch.from_numpy(x).requires_grad_()
        made(array).sum().backward()
        found = array.grad
    else:
        found = jax.grad(lambda x: made(x).sum())(jnp.asarray(x))
    assert np.isfinite(numpy(found)).all()


def test_sum_over_scaled_active_part_and_others(rng):
    weights = weights_of(PARTS["updates"])
    made = transfer(weights, build(PARTS["updates"], "torch_attention", {}))
    streams = rng.standard_normal((BATCH, LENGTH, STREAMS, EMBED)).astype(np.float32)
    x = rng.standard_normal((BATCH, LENGTH, EMBED)).astype(np.float32)
    scaled = made.scaled_part(torch.from_numpy(streams))
    assert difference(scaled, streams[:, :, ACTIVE] * weights["stream_scale"]) < 1e-6
    found, expected = made.add(torch.from_numpy(streams), torch.from_numpy(x)), streams.copy()
    expected[:, :, 1:] += x[:, :, None]
    assert difference(found, expected) < 1e-6


def described(**changed):
    """A model with one layer, of which some fields are changed."""
    mixer = Part("GroupedQueryAttention", {"num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "bias": False})
    fields = {
        "laurel": Part("LearnedAugmentedResidual", {"rank": RANK}),
        "updates": Part("AlternatingUpdates"),
        "arrangement": "sandwich_laurel",
        "streams": Part("ResidualStreams", {"num_streams": STREAMS}),
        **changed,
    }
    streams, arrangement = fields.pop("streams"), fields.pop("arrangement")
    layer = layer_spec(
        mixer, Part("GatedFeedForward", {"ffn_dim": FFN}), arrangement, Part("rms_norm"), **fields
    )
    return language_model(model_spec(VOCAB, EMBED, [layer], streams=streams))


@each_mirror
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"updates": None}, "updates of a layer must be given for a model with streams alone, got None"),
        ({"streams": None}, "updates of a layer must be given for a model with streams alone"),
        ({"laurel": None}, "laurel must be given for the arrangement 'sandwich_laurel' alone, got None"),
        ({"arrangement": "sandwich"}, "laurel must be given for the arrangement 'sandwich_laurel' alone"),
        ({"updates": Part("AlternatingUpdates", {"active": STREAMS})}, "num_streams must be at least 4"),
        ({"updates": Part("GatedFeedForward")}, "updates must be AlternatingUpdates, got GatedFeedForward"),
        ({"streams": Part("TokenInput")}, "streams must be ResidualStreams, got TokenInput"),
        ({"laurel": Part("rms_norm")}, "laurel must be a LearnedAugmentedResidual, got rms_norm"),
    ],
)
def test_impossible_stream_is_refused(mirror, changed, message):
    with pytest.raises(ValueError, match=message):
        build(described(**changed), mirror.package.__name__, {"rngs": nnx.Rngs(0)})


@each_mirror
def test_share_of_closed_gates_must_be_between_0_and_1(mirror):
    for sparsity in (0.0, 1.0, 1.5):
        part = Part("SparseGatedFeedForward", {**PARTS["sparse"].arguments, "sparsity": sparsity})
        with pytest.raises(ValueError, match="sparsity must be between 0 and 1"):
            build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})


def test_parts_of_the_stream_have_hidden_states_of_their_own(rng):
    made = build(described(), "torch_attention", {})
    tokens = torch.from_numpy(rng.integers(0, VOCAB, (BATCH, LENGTH)))
    states = made(tokens, need_hidden_states=True).hidden_states
    assert [tuple(x.shape) for x in states] == [(BATCH, LENGTH, STREAMS, EMBED)] * 2
