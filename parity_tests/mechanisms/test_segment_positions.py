"""XLNet's relative positions with segments, against loops over queries and keys in float64, and transformers."""

import math

import numpy as np
import pytest
import torch
from transformers import XLNetConfig
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error
from parity_tests.helpers.built import each_mirror, module, weights_for
from parity_tests.helpers.families import numpy_of
from parity_tests.helpers.program import program

BATCH, HEADS, DIM, WIDTH = 2, 3, 4, 12
QUERIES, KEYS = 5, 7
SIZES = {"embed_dim": WIDTH, "num_heads": HEADS, "head_dim": DIM}
SEGMENTS = np.array([[0, 0, 1, 1, 2, 1, 0], [1, 0, 0, 3, 3, 3, 1]], np.int32)
BOUND = 16 * 2**-24 * math.sqrt(WIDTH)


def made(rng, mirror):
    """The positional encoding with random weights, and these weights in float64."""
    given = weights_for(rng, "XLNetEmbedding", **SIZES)
    return module(mirror, "XLNetEmbedding", given, **SIZES), {
        k: x.astype(np.float64) for k, x in given.items()
    }


def coordinates(places):
    """Place and segment of each token."""
    segments = SEGMENTS[:, : places.shape[-1]]
    return np.stack([np.broadcast_to(places, segments.shape), segments], -1).astype(np.int32)


def scores(given, query, key, query_at, key_at):
    """The scores, pair by pair."""
    found = np.zeros((*query.shape[:3], key.shape[2]))
    angle = 10000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    for b, h, i, j in np.ndindex(found.shape):
        (place, segment), (other, another) = query_at[b, i], key_at[b, j]
        turned = np.concatenate([np.sin((place - other) * angle), np.cos((place - other) * angle)])
        of_distance = turned @ given["distance_weight"][:, h]
        of_segment = given["segment_vectors"][int(segment != another), h]
        found[b, h, i, j] = (
            (query[b, h, i] + given["content_bias"][h]) @ key[b, h, j]
            + (query[b, h, i] + given["distance_bias"][h]) @ of_distance
            + (query[b, h, i] + given["segment_bias"][h]) @ of_segment
        )
    return found / math.sqrt(DIM)


def ours(position, mirror, query, key, *places):
    """The scores of queries and keys with their positional encoding."""
    given = (None if x is None else mirror.array(x) for x in (query, key, *places))
    placed = program(position, lambda position, *arrays: position(*arrays))(*given)
    found = numpy_of({"query": placed.query, "key": placed.key, "bias": placed.bias})
    return found["query"] @ found["key"].swapaxes(-1, -2) / math.sqrt(DIM) + found["bias"]


def heads(rng, length):
    return rng.standard_normal((BATCH, HEADS, length, DIM)).astype(np.float32)


@each_mirror
def test_scores_are_those_of_explicit_loops(mirror, rng):
    position, given = made(rng, mirror)
    query, key = heads(rng, QUERIES), heads(rng, KEYS)
    at = coordinates(np.arange(2, 2 + QUERIES)), coordinates(np.arange(KEYS))
    expected = scores(given, query, key, *at)
    assert error(ours(position, mirror, query, key, *at), expected) <= BOUND
    swapped = {**given, "segment_vectors": given["segment_vectors"][::-1]}
    assert error(scores(swapped, query, key, *at), expected) > 1000 * BOUND


@each_mirror
def test_one_segment_gives_the_weights_without_segments(mirror, rng):
    position, _ = made(rng, mirror)
    query = heads(rng, KEYS)
    at = np.stack([np.arange(KEYS), np.full(KEYS, 3)], -1).astype(np.int32)
    apart = ours(position, mirror, query, query, at, at) - ours(position, mirror, query, query)
    assert np.abs(apart).max() > 0.1  # the same for all keys, so that a softmax does not depend on it
    assert np.abs(apart - apart[..., :1]).max() <= 4 * BOUND * np.abs(apart).max()


@each_mirror
def test_positions_of_queries_alone_leave_keys_in_the_first_segment(mirror, rng):
    position, given = made(rng, mirror)
    query, at = heads(rng, KEYS), coordinates(np.arange(KEYS))
    keys_at = np.broadcast_to(np.stack([np.arange(KEYS), np.zeros(KEYS)], -1), at.shape)
    expected = scores(given, query, query, at, keys_at.astype(int))
    assert error(ours(position, mirror, query, query, at, None), expected) <= BOUND


@each_mirror
def test_weights_with_segments_are_those_of_transformers(mirror, rng):
    config = XLNetConfig(d_model=WIDTH, n_head=HEADS, d_head=DIM, n_layer=1, d_inner=8, vocab_size=7)
    theirs, model = XLNetRelativeAttention(config).double().eval(), XLNetModel(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(0.4 * rng.standard_normal(parameter.shape)))
    x = rng.standard_normal((BATCH, KEYS, WIDTH)).astype(np.float32)
    segments = torch.from_numpy(SEGMENTS).long().T  # length batch
    same_or_not = torch.nn.functional.one_hot((segments[:, None] != segments[None]).long(), 2).double()
    distances = model.relative_positional_encoding(KEYS, KEYS, bsz=BATCH).double()
    h = torch.from_numpy(x).double().swapaxes(0, 1)  # length batch embed
    with torch.no_grad():
        *_, weights = theirs(h, None, None, None, distances, same_or_not, output_attentions=True)
    state = {name: x.detach().numpy().astype(np.float32) for name, x in theirs.named_parameters()}
    given = {f"{name}_proj.weight": state[name].reshape(WIDTH, WIDTH).T for name in "qkv"}
    given |= {"out_proj.weight": state["o"].reshape(WIDTH, WIDTH)}
    names = {"r": "distance_weight", "r_w_bias": "content_bias", "r_r_bias": "distance_bias"}
    names |= {"r_s_bias": "segment_bias", "seg_embed": "segment_vectors"}
    given |= {f"position.{ours}": state[name] for name, ours in names.items()}
    options = {
        "embed_dim": WIDTH,
        "num_heads": HEADS,
        "bias": False,
        "position": Part("XLNetEmbedding", SIZES),
    }
    attention = module(mirror, "MultiHeadSelfAttention", given, **options)
    run = program(attention, lambda attention, x, places=None: attention(x, positions=places).weights)
    places = mirror.array(coordinates(np.arange(KEYS)))
    found = numpy_of({"weights": run(mirror.array(x), places)})["weights"]
    assert error(found, weights.permute(2, 3, 0, 1).numpy()) <= BOUND
    without = numpy_of({"weights": run(mirror.array(x))})["weights"]
    assert error(without, weights.permute(2, 3, 0, 1).numpy()) > 1000 * BOUND


@each_mirror
def test_positions_without_a_segment_raise(mirror, rng):
    options = {"embed_dim": WIDTH, "num_heads": HEADS, "position": Part("XLNetEmbedding", SIZES)}
    attention = module(mirror, "MultiHeadSelfAttention", **options)
    x = mirror.array(rng.standard_normal((BATCH, KEYS, WIDTH)).astype(np.float32))
    with pytest.raises(ValueError, match=r"positions must have shape \(7, 2\) or \(2, 7, 2\), got \(7,\)"):
        attention(x, positions=mirror.array(np.arange(KEYS, dtype=np.int32)))
