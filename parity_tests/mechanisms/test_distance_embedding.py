"""Distance embeddings that the layers of DeBERTa share, against explicit loops in float64."""

import importlib

import numpy as np
import pytest
from flax import nnx

from attention_bridge.oracles.positions_relative import deberta_row
from attention_bridge.weights import transfer
from parity_tests.helpers.built import each_mirror, module, weights_for
from parity_tests.helpers.families import numpy_of

DIM, HEADS, LENGTH = 6, 2, 9
ATTENTION = "DisentangledSelfAttention"
SIZES = {"embed_dim": DIM, "num_heads": HEADS, "shares_embedding": True}


def distance_embedding(mirror, rng, rows, **options):
    """A `DistanceEmbedding` with random weights, and these weights."""
    made = importlib.import_module(f"{mirror.package.__name__}.positions").DistanceEmbedding(
        DIM, **options, **({"rngs": nnx.Rngs(0)} if mirror.name == "jax" else {})
    )
    given = {"relative_embedding.weight": rng.standard_normal((rows, DIM)).astype(np.float32)}
    if options.get("norm_eps") is not None:
        given |= {f"norm.{each}": rng.standard_normal(DIM).astype(np.float32) for each in ("weight", "bias")}
    return transfer(given, made), given


def expected(given, table, row, x, terms):
    """Outputs and weights of disentangled attention, pair by pair."""
    given = {name: value.astype(np.float64) for name, value in given.items()}

    def project(name, x):
        return (x @ given[f"{name}.weight"].T + given[f"{name}.bias"]).reshape(*x.shape[:-1], HEADS, -1)

    own = "relative_" if any(name.startswith("relative_") for name in given) else ""
    query, key, value = (project(f"{name}_proj", x) for name in "qkv")
    scale = ((1 + len(terms)) * DIM / HEADS) ** -0.5
    scores = np.zeros((HEADS, LENGTH, LENGTH))
    for h, i, j in np.ndindex(scores.shape):
        scores[h, i, j] = query[i, h] @ key[j, h]
        if "c2p" in terms:
            scores[h, i, j] += query[i, h] @ project(f"{own}k_proj", table[row(i - j)])[h]
        if "p2c" in terms:
            scores[h, i, j] += key[j, h] @ project(f"{own}q_proj", table[row(i - j)])[h]
    weights = np.exp(scale * scores)
    weights /= weights.sum(-1, keepdims=True)
    heads = np.einsum("hij,jhd->ihd", weights, value).reshape(LENGTH, DIM)
    return heads @ given["out_proj.weight"].T + given["out_proj.bias"], weights


@each_mirror
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("terms", [("c2p", "p2c"), ("c2p",), ("p2c",)])
@pytest.mark.parametrize("buckets", [4, None])
def test_shared_distances_are_those_of_explicit_loops(mirror, rng, terms, share, buckets):
    options = {**SIZES, "terms": terms, "share_projections": share}
    given = weights_for(rng, ATTENTION, **options)
    rows = 2 * (5 if buckets is None else buckets)
    norm_eps = None if buckets is None else 0.1
    position, table = distance_embedding(
        mirror, rng, rows, num_buckets=buckets, max_distance=5, norm_eps=norm_eps
    )
    x = rng.standard_normal((1, LENGTH, DIM)).astype(np.float32)
    read = module(mirror, ATTENTION, given, **options)(mirror.array(x), position=position)
    found = numpy_of({"output": read.output, "weights": read.weights})
    values = table["relative_embedding.weight"].astype(np.float64)
    if norm_eps is not None:
        values = (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + norm_eps)
        values = values * table["norm.weight"] + table["norm.bias"]

    def row(apart):
        return min(max(apart + 5, 0), 9) if buckets is None else deberta_row(apart, buckets, 5)

    output, weights = expected(given, values, row, x[0].astype(np.float64), terms)
    assert np.allclose(found["output"][0], output, rtol=1e-4, atol=1e-5)
    assert np.allclose(found["weights"][0], weights, rtol=1e-4, atol=1e-5)


@each_mirror
def test_layer_that_shares_distances_needs_them_and_another_layer_takes_none(mirror, rng):
    x = mirror.array(rng.standard_normal((1, LENGTH, DIM)).astype(np.float32))
    position, _ = distance_embedding(mirror, rng, 8, num_buckets=4, max_distance=5)
    with pytest.raises(ValueError, match="position must be the DistanceEmbedding of all layers, got None"):
        module(mirror, ATTENTION, **SIZES)(x)
    own = module(mirror, ATTENTION, embed_dim=DIM, num_heads=HEADS, num_buckets=4, max_distance=5)
    with pytest.raises(ValueError, match="position must be None, got DistanceEmbedding"):
        own(x, position=position)


@each_mirror
@pytest.mark.parametrize("terms", [(), ("c2p", "c2p"), ("p2p",)])
def test_terms_must_be_known(mirror, terms):
    with pytest.raises(ValueError, match="terms must be 'c2p', 'p2c' or both"):
        module(mirror, ATTENTION, **SIZES, terms=terms)
