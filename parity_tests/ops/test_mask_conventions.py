"""Masks of other libraries: masks converted by `attention_bridge.masks` give equal results there and here."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch.nn.attention.bias import causal_lower_right

import torch_attention.ops
from attention_bridge import masks
from attention_bridge.masks import Restriction
from attention_bridge.weights import transfer

os.environ.setdefault("KERAS_BACKEND", "torch")

BATCH, HEADS, QUERY, KEY, EMBED = 2, 3, 5, 7, 12
SHAPE = (BATCH, HEADS, QUERY, KEY)


def seeing(rng, *shape):
    """A random mask in which every query attends to the first key."""
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    return mask


def draw(rng, key_len=KEY):
    """Random query, key and value."""
    return [rng.standard_normal((BATCH, HEADS, n, 4)) for n in (QUERY, key_len, key_len)]


def ours(given, restriction):
    """The mirror's output under a restriction."""
    tensors = {
        name: torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x
        for name, x in restriction._asdict().items()
    }
    return torch_attention.ops.dot_product_attention(*map(torch.from_numpy, given), **tensors).numpy()


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


RESTRICTIONS = {
    "nothing": lambda rng: Restriction(),
    "pairs": lambda rng: Restriction(seeing(rng, QUERY, KEY)),
    "a batch": lambda rng: Restriction(seeing(rng, BATCH, QUERY, KEY)),
    "heads": lambda rng: Restriction(seeing(rng, *SHAPE)),
    "keys": lambda rng: Restriction(seeing(rng, BATCH, 1, 1, KEY)),
    "causal": lambda rng: Restriction(is_causal=True),
    "causal, and keys": lambda rng: Restriction(seeing(rng, BATCH, 1, 1, KEY), is_causal=True),
    "window": lambda rng: Restriction(is_causal=True, window=3),
    "offset": lambda rng: Restriction(is_causal=True, window=4, query_offset=2),
    "bias": lambda rng: Restriction(bias=rng.standard_normal((QUERY, KEY))),
    "bias of heads, and a mask": lambda rng: Restriction(
        seeing(rng, BATCH, QUERY, KEY), rng.standard_normal((1, HEADS, 1, KEY)), is_causal=True
    ),
}
each = pytest.mark.parametrize("name", RESTRICTIONS)
without_bias = pytest.mark.parametrize("name", [name for name in RESTRICTIONS if "bias" not in name])


class TestTorchMha:
    @pytest.fixture
    def layer(self):
        torch.manual_seed(0)
        return torch.nn.MultiheadAttention(EMBED, HEADS, batch_first=True, dtype=torch.float64)

    def both(self, layer, x, memory, restriction, **theirs):
        """The layer's output with its own masks, and the mirror's output with the restriction."""
        mirror = torch_attention.MultiHeadCrossAttention(EMBED, EMBED, EMBED, HEADS, dtype=torch.float64)
        transfer(layer, mirror)
        tensors = {name: None if x is None else torch.from_numpy(np.array(x)) for name, x in theirs.items()}
        with torch.no_grad():
            expected = layer(x, memory, memory, need_weights=False, **tensors)[0].numpy()
            heads = [
                proj(y).unflatten(-1, (HEADS, -1)).transpose(1, 2).numpy()
                for proj, y in ((mirror.q_proj, x), (mirror.k_proj, memory), (mirror.v_proj, memory))
            ]
            merged = torch.from_numpy(ours(heads, restriction)).transpose(1, 2).flatten(-2)
            return mirror.out_proj(merged).numpy(), expected

    @pytest.fixture
    def sequences(self, rng):
        return [torch.from_numpy(rng.standard_normal((BATCH, n, EMBED))) for n in (QUERY, KEY)]

    @pytest.mark.parametrize("shape", [(QUERY, KEY), (BATCH * HEADS, QUERY, KEY)], ids=str)
    @pytest.mark.parametrize("added", [False, True])
    @pytest.mark.parametrize("padded", [False, True])
    def test_masks_from_torch_mha(self, layer, sequences, shape, added, padded, rng):
        attn_mask = rng.standard_normal(shape) if added else ~seeing(rng, *shape)
        padding = ~seeing(rng, BATCH, KEY) if padded else None
        if added and padded:  # PyTorch requires both masks in the same dtype
            padding = np.where(padding, -np.inf, 0.0)
        restriction = masks.from_torch_mha(attn_mask, padding, num_heads=HEADS)
        same(*self.both(layer, *sequences, restriction, attn_mask=attn_mask, key_padding_mask=padding))

    @each
    def test_masks_to_torch_mha(self, layer, sequences, name, rng):
        restriction = RESTRICTIONS[name](rng)
        theirs = masks.to_torch_mha(restriction, shape=SHAPE)
        same(*self.both(layer, *sequences, restriction, **theirs))

    def test_masks_that_pytorch_rejects_raise(self):
        with pytest.raises(TypeError, match="attn_mask must be boolean or a float"):
            masks.from_torch_mha(np.ones((5, 7), int), num_heads=HEADS)
        with pytest.raises(ValueError, match=r"\(batch \* 3, query, key\), got \(4, 5, 7\)"):
            masks.from_torch_mha(np.ones((4, 5, 7), bool), num_heads=HEADS)
        with pytest.raises(ValueError, match="is_causal needs attn_mask"):
            masks.from_torch_mha(num_heads=HEADS, is_causal=True)
        with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(batch, key\)"):
            masks.from_torch_mha(key_padding_mask=np.ones(5, bool), num_heads=HEADS)


class TestTorchSdpa:
    def theirs(self, given, attn_mask=None, is_causal=False):
        mask = None if attn_mask is None else torch.from_numpy(np.array(attn_mask))
        return F.scaled_dot_product_attention(
            *map(torch.from_numpy, given), attn_mask=mask, is_causal=is_causal
        ).numpy()

    @pytest.mark.parametrize("shape", [(QUERY, KEY), (HEADS, QUERY, KEY), (BATCH, 1, 1, KEY), SHAPE], ids=str)
    @pytest.mark.parametrize("added", [False, True])
    def test_masks_from_torch_sdpa(self, shape, added, rng):
        given, mask = draw(rng), rng.standard_normal(shape) if added else seeing(rng, *shape)
        same(ours(given, masks.from_torch_sdpa(mask)), self.theirs(given, mask))

    @each
    def test_masks_to_torch_sdpa(self, name, rng):
        given, restriction = draw(rng), RESTRICTIONS[name](rng)
        found = masks.to_torch_sdpa(restriction, query_len=QUERY, key_len=KEY)
        same(ours(given, restriction), self.theirs(given, **found))

    def test_causal_masks_align_to_the_upper_left_or_lower_right(self, rng):
        given = draw(rng)
        same(ours(given, masks.from_torch_sdpa(is_causal=True)), self.theirs(given, is_causal=True))
        other = F.scaled_dot_product_attention(
            *map(torch.from_numpy, given),
            attn_mask=causal_lower_right(QUERY, KEY),
        )
        same(ours(given, masks.lower_right(QUERY, KEY)), other.numpy())
        with pytest.raises(ValueError, match="cannot be given together"):
            masks.from_torch_sdpa(np.ones((5, 7), bool), is_causal=True)


class TestJaxNn:
    def theirs(self, given, **options):
        arrays = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
        query, key, value = (jnp.swapaxes(jnp.asarray(x, jnp.float32), 1, 2) for x in given)
        return np.asarray(jnp.swapaxes(jax.nn.dot_product_attention(query, key, value, **arrays), 1, 2))

    def close(self, found, expected):
        """Assert closeness in float32, in which `jax.nn` computes its softmax."""
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)

    @pytest.mark.parametrize(
        "options",
        [
            {"is_causal": True},
            {"local_window_size": (2, 0)},
            {"local_window_size": 2, "is_causal": True},
        ],
        ids=str,
    )
    def test_masks_from_jax_nn(self, options, rng):
        given, mask = draw(rng), seeing(rng, BATCH, 1, 1, KEY)
        mask[:] = True  # a window may leave no visible key
        bias = rng.standard_normal((HEADS, QUERY, KEY)).astype(np.float32)
        restriction = masks.from_jax_nn(bias, mask, **options)
        self.close(ours(given, restriction), self.theirs(given, bias=bias[None], mask=mask, **options))

    @each
    def test_masks_to_jax_nn(self, name, rng):
        given, restriction = draw(rng), RESTRICTIONS[name](rng)
        found = masks.to_jax_nn(restriction, query_len=QUERY, key_len=KEY)
        self.close(ours(given, restriction), self.theirs(given, **found))

    def test_windows_with_later_keys_raise(self):
        with pytest.raises(ValueError, match="local_window_size must end at the query"):
            masks.from_jax_nn(local_window_size=(2, 1))
        with pytest.raises(TypeError, match="mask must be boolean"):
            masks.from_jax_nn(mask=np.zeros((5, 7)))


class TestFlaxAndKeras:
    def test_additive_mask_raises_because_flax_and_keras_invert_it(self, rng):
        visible = seeing(rng, BATCH, QUERY, KEY)
        additive = np.where(visible, 0.0, -np.inf)
        for convert in (masks.from_flax, masks.from_keras):
            with pytest.raises(TypeError, match="additive masks are inverted here"):
                convert(additive)
        layer = nnx.MultiHeadAttention(HEADS, EMBED, decode=False, rngs=nnx.Rngs(0))
        x, memory = (jnp.asarray(rng.standard_normal((BATCH, n, EMBED)), jnp.float32) for n in (QUERY, KEY))
        by_flax = layer(x, memory, memory, mask=jnp.asarray(additive)[:, None])
        inverted = layer(x, memory, memory, mask=jnp.asarray(~visible)[:, None])
        np.testing.assert_array_equal(np.asarray(by_flax), np.asarray(inverted))

    @without_bias
    def test_masks_to_flax(self, name, rng):
        given, restriction = draw(rng), RESTRICTIONS[name](rng)
        found = masks.to_flax(restriction, query_len=QUERY, key_len=KEY)["mask"]
        query, key, value = (jnp.swapaxes(jnp.asarray(x, jnp.float32), 1, 2) for x in given)
        mask = None if found is None else jnp.broadcast_to(jnp.asarray(found), SHAPE)
        theirs = jnp.swapaxes(nnx.dot_product_attention(query, key, value, mask=mask), 1, 2)
        np.testing.assert_allclose(ours(given, restriction), np.asarray(theirs), rtol=2e-6, atol=2e-6)
        if found is not None:
            same(ours(given, masks.from_flax(found.astype(np.int8))), ours(given, restriction))

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised by Keras
    @without_bias
    def test_masks_to_keras(self, name, rng):
        keras = pytest.importorskip("keras")
        restriction = RESTRICTIONS[name](rng)
        if name == "heads":
            with pytest.raises(ValueError, match="the same for all heads"):
                masks.to_keras(restriction, query_len=QUERY, key_len=KEY)
            return
        found = masks.to_keras(restriction, query_len=QUERY, key_len=KEY)["attention_mask"]
        layer = keras.layers.MultiHeadAttention(HEADS, EMBED // HEADS, dtype="float64")
        x, memory = (rng.standard_normal((BATCH, n, EMBED)) for n in (QUERY, KEY))
        _, scores = layer(x, memory, attention_mask=found, return_attention_scores=True)
        seen = np.ones(SHAPE, bool) if found is None else np.broadcast_to(found[:, None], SHAPE)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(scores) > 0, seen)
        if found is not None:
            given = draw(rng)
            same(ours(given, masks.from_keras(found)), ours(given, restriction))

    def test_padding_from_keras(self, rng):
        query_mask, key_mask = seeing(rng, BATCH, QUERY), seeing(rng, BATCH, KEY)
        whole = np.ones((1, QUERY, KEY), bool)
        found = masks.from_keras(whole, query_mask=query_mask, key_mask=key_mask, use_causal_mask=True)
        expected = query_mask[:, None, :, None] & key_mask[:, None, None]
        np.testing.assert_array_equal(found.mask, expected)
        assert found.is_causal
        with pytest.raises(ValueError, match="does not say how many keys"):
            masks.from_keras(query_mask=query_mask)

    def test_bias_raises(self, rng):
        restriction = RESTRICTIONS["bias"](rng)
        for convert in (masks.to_flax, masks.to_keras, masks.to_transformers):
            with pytest.raises(ValueError, match="bias must be None"):
                convert(restriction, query_len=QUERY, key_len=KEY)


class TestTransformers:
    @without_bias
    def test_masks_to_transformers_and_back(self, name, rng):
        given, restriction = draw(rng), RESTRICTIONS[name](rng)
        theirs = masks.to_transformers(restriction, query_len=QUERY, key_len=KEY)["attention_mask"]
        if theirs is None:
            return
        assert set(np.unique(theirs)) <= {0.0, np.finfo(np.float32).min}
        same(ours(given, masks.from_transformers(theirs)), ours(given, restriction))
        same(ours(given, Restriction(bias=theirs.astype(np.float64))), ours(given, restriction))

    def test_masks_not_of_transformers_raise(self):
        with pytest.raises(TypeError, match="floating-point, got bool"):
            masks.from_transformers(np.ones((1, 1, 5, 7), bool))
        with pytest.raises(ValueError, match="other numbers are a bias"):
            masks.from_transformers(np.full((1, 1, 5, 7), -1e4, np.float32))
