"""Positions of image patches behind prefix tokens, against loops over queries and keys in float64."""

import math

import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from parity_tests.helpers.built import MIRRORS

GRID, PREFIX, HEADS, DIM = (2, 3), 2, 3, 8
LENGTH = PREFIX + GRID[0] * GRID[1]
PACKAGES = {"torch": torch_attention, "jax": jax_attention}


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def place(n):
    """Row and column of a patch; None for the prefix."""
    return None if n < PREFIX else divmod(n - PREFIX, GRID[1])


def heads(rng):
    return rng.standard_normal((2, HEADS, LENGTH, DIM)).astype(np.float32)


def made(name, mirror, *arguments, **options):
    factory = {"rngs": nnx.Rngs(0)} if mirror == "jax" and name == "PatchBias" else {}
    return getattr(PACKAGES[mirror].positions, name)(*arguments, **options, **factory)


@pytest.mark.parametrize("mirror", MIRRORS)
def test_patch_bias_is_the_row_of_each_difference(mirror, rng):
    bias, array = made("PatchBias", mirror, HEADS, GRID, num_prefix=PREFIX), MIRRORS[mirror].array
    table = numpy(bias.position_bias[...])
    query, key = heads(rng), heads(rng)
    found = bias(array(query), array(key))
    count = len(table) - 3
    assert count == (2 * GRID[0] - 1) * (2 * GRID[1] - 1)
    expected = np.zeros((1, HEADS, LENGTH, LENGTH), np.float32)
    for i in range(LENGTH):
        for j in range(LENGTH):
            at, to = place(i), place(j)
            if at is None or to is None:
                row = count + (2 if at is to is None else 0 if at is None else 1)
            else:
                row = (at[0] - to[0] + GRID[0] - 1) * (2 * GRID[1] - 1) + at[1] - to[1] + GRID[1] - 1
            expected[0, :, i, j] = table[row]
    assert (numpy(found.bias) == expected).all()
    assert (numpy(found.query) == query).all()
    assert (numpy(found.key) == key).all()


@pytest.mark.parametrize("mirror", MIRRORS)
def test_patch_rotation_turns_pairs_by_the_centre_of_the_patch(mirror, rng):
    rope, array = (
        made("PatchRotaryEmbedding", mirror, DIM, GRID, num_prefix=PREFIX, base=7.0),
        MIRRORS[mirror].array,
    )
    query, key = heads(rng), heads(rng)
    found = rope(array(query), array(key))
    for given, turned in ((query, found.query), (key, found.key)):
        expected = given.astype(np.float64)
        for n in range(PREFIX, LENGTH):
            centre = [(2 * c + 1) / size - 1 for c, size in zip(place(n), GRID, strict=True)]
            for pair in range(DIM // 2):
                axis, number = divmod(pair, DIM // 4)
                angle = 2 * math.pi * centre[axis] * 7.0 ** (-4 * number / DIM)
                one, other = given[..., n, pair].astype(np.float64), given[..., n, pair + DIM // 2]
                expected[..., n, pair] = one * math.cos(angle) - other * math.sin(angle)
                expected[..., n, pair + DIM // 2] = other * math.cos(angle) + one * math.sin(angle)
        assert np.abs(numpy(turned) - expected).max() < 1e-5
        assert (numpy(turned)[..., :PREFIX, :] == given[..., :PREFIX, :]).all()


@pytest.mark.parametrize("mirror", MIRRORS)
def test_other_numbers_of_positions_raise(mirror, rng):
    array = MIRRORS[mirror].array
    short = array(heads(rng)[:, :, 1:])
    message = f"query and key must have {LENGTH} positions, .* got {LENGTH - 1}"
    for name, arguments in (("PatchBias", (HEADS, GRID)), ("PatchRotaryEmbedding", (DIM, GRID))):
        with pytest.raises(ValueError, match=message):
            made(name, mirror, *arguments, num_prefix=PREFIX)(short, short)
