"""Independent implementations: equal results for all options they support, and the documented differences."""

import contextlib
import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from torch import nn

import jax_attention
import jax_attention.models
import torch_attention
import torch_attention.models
from attention_bridge.weights import transfer

BATCH, HEADS, QUERY, KEY, EMBED, MEMORY, FFN = 2, 3, 5, 7, 12, 10, 9
HEAD_DIM = EMBED // HEADS
# The longest sum is in a projection.
FLOAT32 = 4 * 2.0**-24 * math.sqrt(EMBED)
FLOAT64 = 1e-12

in_double = functools.partial(jax.enable_x64, True)


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def assert_same(given, expected):
    """Assert equality within the tolerance of the dtype, which must be the same."""
    given, expected = numpy(given), numpy(expected)
    assert given.shape == expected.shape
    assert given.dtype == expected.dtype
    bound = FLOAT64 if given.dtype == np.float64 else FLOAT32
    error = np.abs(given - expected).max() / np.abs(expected).max()
    assert error <= bound


def to_torch(x):
    return torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x


def to_jax(x):
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


class Mirror:
    """One mirror, called with numpy arrays; functions and modules compute in the dtype of their inputs."""

    def __init__(self, package, array, double, factory):
        self.names = SimpleNamespace(**{**vars(package), **vars(package.models)})
        self.array, self.double, self.factory = array, double, factory

    def build(self, name, weights, *arguments, layout="torch_attention", dtype="float64", **options):
        """A module with weights converted from a layout."""
        with self.double():
            module = getattr(self.names, name)(*arguments, **options, **self.factory(dtype))
            return transfer(weights, module, source_layout=layout)

    def __call__(self, function, *arguments, **options):
        """Call a module, or a function by its name."""
        function = getattr(self.names, function) if isinstance(function, str) else function
        with self.double():
            options = {name: self.array(x) for name, x in options.items()}
            return function(*map(self.array, arguments), **options)


def of_torch(dtype):
    return {"dtype": getattr(torch, dtype)}


def of_jax(dtype):
    return {"rngs": nnx.Rngs(0), "param_dtype": dtype}


MIRRORS = {
    "torch": Mirror(torch_attention, to_torch, contextlib.nullcontext, of_torch),
    "jax": Mirror(jax_attention, to_jax, in_double, of_jax),
}


@pytest.fixture(params=MIRRORS)
def mirror(request):
    return MIRRORS[request.param]


def randomise(module, rng):
    """Fill every parameter of a PyTorch module with random numbers, biases and norms included."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(parameter.shape)))
    return module


def draw(rng, *shapes, dtype=np.float64):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def seeing(rng, *shape):
    """A random mask without fully masked rows."""
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    return mask


class TestScaledDotProductAttentionOfTorch:
    @pytest.mark.parametrize("kv_heads", [6, 2])
    @pytest.mark.parametrize("kind", ["plain", "causal", "mask", "mask of the batch", "bias", "scale"])
    def test_operation_equals_sdpa(self, mirror, kv_heads, kind, rng):
        query, key, value = draw(
            rng, (BATCH, 6, QUERY, 4), (BATCH, kv_heads, KEY, 4), (BATCH, kv_heads, KEY, 11)
        )
        bias = rng.standard_normal((BATCH, 6, QUERY, KEY))
        bias[:, 1, :, 3:] = -np.inf
        mask = seeing(rng, BATCH, QUERY, KEY)
        ours, theirs = {
            "plain": ({}, {}),
            "causal": ({"is_causal": True}, {"is_causal": True}),
            "mask": ({"mask": mask[0]}, {"attn_mask": mask[0]}),
            "mask of the batch": ({"mask": mask}, {"attn_mask": mask[:, None]}),
            "bias": ({"bias": bias}, {"attn_mask": bias}),
            "scale": ({"scale": 0.3}, {"scale": 0.3}),
        }[kind]
        theirs = {name: to_torch(x) for name, x in theirs.items()}
        expected = F.scaled_dot_product_attention(
            *map(to_torch, (query, key, value)), **theirs, enable_gqa=kv_heads != 6
        )
        assert_same(mirror("dot_product_attention", query, key, value, **ours), expected)

    def test_fully_masked_row_is_zero_in_both(self, mirror, rng):
        query, key, value = draw(
            rng, (BATCH, HEADS, QUERY, 4), (BATCH, HEADS, KEY, 4), (BATCH, HEADS, KEY, 4)
        )
        mask = np.ones((QUERY, KEY), bool)
        mask[2] = False
        expected = F.scaled_dot_product_attention(
            *map(to_torch, (query, key, value)), attn_mask=to_torch(mask)
        )
        assert not expected[:, :, 2].any()
        assert_same(mirror("dot_product_attention", query, key, value, mask=mask), expected)

    def test_mask_and_is_causal_together_are_their_conjunction(self, mirror, rng):
        arrays = draw(rng, (BATCH, HEADS, QUERY, 4), (BATCH, HEADS, KEY, 4), (BATCH, HEADS, KEY, 4))
        mask = seeing(rng, QUERY, KEY)
        both = to_torch(mask & np.tri(QUERY, KEY, dtype=bool))
        expected = F.scaled_dot_product_attention(*map(to_torch, arrays), attn_mask=both)
        assert_same(mirror("dot_product_attention", *arrays, mask=mask, is_causal=True), expected)


class TestMultiheadAttentionOfTorch:
    """Weights converted by the layout `torch.mha`; True in PyTorch's masks means hidden."""

    @pytest.fixture
    def peer(self, rng):
        return randomise(nn.MultiheadAttention(EMBED, HEADS, batch_first=True, dtype=torch.float64), rng)

    @pytest.fixture
    def cross_peer(self, rng):
        peer = nn.MultiheadAttention(
            EMBED, HEADS, kdim=MEMORY, vdim=MEMORY, batch_first=True, dtype=torch.float64
        )
        return randomise(peer, rng)

    def ours(self, mirror, peer):
        return mirror.build("MultiHeadSelfAttention", peer, EMBED, HEADS, layout="torch.mha")

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("need_weights", [True, False])
    @pytest.mark.parametrize("kind", ["plain", "rank 2", "rank 4", "padding", "padding and rank 2"])
    def test_self_attention(self, mirror, peer, kind, need_weights, training, rng):
        [x] = draw(rng, (BATCH, QUERY, EMBED))
        each = seeing(rng, BATCH, HEADS, QUERY, QUERY)
        padding = np.array([[True] * 5, [True] * 3 + [False] * 2])
        hidden = {
            "plain": {},
            "rank 2": {"attn_mask": ~each[0, 0]},
            "rank 4": {"attn_mask": ~each.reshape(BATCH * HEADS, QUERY, QUERY)},
            "padding": {"key_padding_mask": ~padding},
            "padding and rank 2": {"attn_mask": ~each[0, 0], "key_padding_mask": ~padding},
        }[kind]
        mask = {
            "plain": None,
            "rank 2": each[0, 0],
            "rank 4": each,
            "padding": padding[:, None, None],
            "padding and rank 2": each[0, 0] & padding[:, None, None],
        }[kind]
        expected, weights = peer.train(training)(
            *[to_torch(x)] * 3,
            **{name: to_torch(m) for name, m in hidden.items()},
            need_weights=need_weights,
            average_attn_weights=False,
        )
        output, our_weights = mirror(self.ours(mirror, peer), x, mask=mask, need_weights=need_weights)
        assert_same(output, expected)
        if need_weights:
            assert_same(our_weights, weights)
        else:
            assert weights is None
            assert our_weights is None

    def test_causal_self_attention(self, mirror, peer, rng):
        [x] = draw(rng, (BATCH, QUERY, EMBED))
        later = nn.Transformer.generate_square_subsequent_mask(QUERY, dtype=torch.float64)
        expected, weights = peer(*[to_torch(x)] * 3, attn_mask=later, average_attn_weights=False)
        ours = mirror.build("CausalSelfAttention", peer, EMBED, HEADS, layout="torch.mha")
        for given, other in zip(mirror(ours, x), (expected, weights), strict=True):
            assert_same(given, other)

    @pytest.mark.parametrize("kind", ["plain", "rank 2", "padding"])
    def test_cross_attention_to_other_features(self, mirror, cross_peer, kind, rng):
        x, memory = draw(rng, (BATCH, QUERY, EMBED), (BATCH, KEY, MEMORY))
        mask = {
            "plain": None,
            "rank 2": seeing(rng, QUERY, KEY),
            "padding": seeing(rng, BATCH, 1, 1, KEY),
        }[kind]
        hidden = {
            "plain": {},
            "rank 2": {"attn_mask": mask},
            "padding": {"key_padding_mask": None if mask is None else mask.reshape(-1, KEY)},
        }[kind]
        expected, weights = cross_peer(
            *map(to_torch, (x, memory, memory)),
            **{name: ~to_torch(m) for name, m in hidden.items()},
            average_attn_weights=False,
        )
        ours = mirror.build(
            "MultiHeadCrossAttention", cross_peer, EMBED, MEMORY, EMBED, HEADS, layout="torch.mha"
        )
        output, our_weights = mirror(ours, x, memory, mask=mask)
        assert_same(output, expected)
        assert_same(our_weights, weights)

    def test_cross_attention_with_another_value_width(self, mirror, rng):
        x, memory, read = draw(rng, (BATCH, QUERY, EMBED), (BATCH, KEY, MEMORY), (BATCH, KEY, 9))
        theirs = nn.MultiheadAttention(
            EMBED, HEADS, kdim=MEMORY, vdim=9, batch_first=True, dtype=torch.float64
        )
        expected, weights = theirs(*map(to_torch, (x, memory, read)), average_attn_weights=False)
        ours = mirror.build(
            "MultiHeadCrossAttention", theirs, EMBED, MEMORY, EMBED, HEADS, value_dim=9, layout="torch.mha"
        )
        output, our_weights = mirror(ours, x, memory, value=read)
        assert_same(output, expected)
        assert_same(our_weights, weights)

    def test_output_width_is_that_of_the_last_projection(self, mirror, cross_peer, rng):
        x, memory = draw(rng, (BATCH, QUERY, EMBED), (BATCH, KEY, MEMORY))
        names = ("MultiHeadCrossAttention", EMBED, MEMORY, EMBED, HEADS)
        weights = {name: w.numpy() for name, w in cross_peer.state_dict().items()}
        narrow = {name: w[:5] if name.startswith("out_proj") else w for name, w in weights.items()}
        whole = mirror.build(names[0], weights, *names[1:], layout="torch.mha")
        part = mirror.build(names[0], narrow, *names[1:], output_dim=5, layout="torch.mha")
        assert_same(mirror(part, x, memory).output, numpy(mirror(whole, x, memory).output)[..., :5])

    def test_default_weights_are_the_mean_over_the_heads(self, mirror, peer, rng):
        [x] = draw(rng, (BATCH, QUERY, EMBED))
        expected = peer(*[to_torch(x)] * 3)[1]
        assert_same(numpy(mirror(self.ours(mirror, peer), x).weights).mean(axis=1), expected)

    def test_mask_has_the_opposite_meaning(self, mirror, peer, rng):
        [x] = draw(rng, (BATCH, QUERY, EMBED))
        mask = np.tri(QUERY, dtype=bool)
        wrong = numpy(peer(*[to_torch(x)] * 3, attn_mask=to_torch(mask))[0])[:, :-1]
        right = numpy(mirror(self.ours(mirror, peer), x, mask=mask).output)[:, :-1]
        assert np.abs(wrong - right).max() > 1e-2

    def test_fully_masked_row_is_nan_there_and_zero_here(self, mirror, peer, rng):
        [x] = draw(rng, (BATCH, QUERY, EMBED))
        mask = np.ones((QUERY, QUERY), bool)
        mask[2] = False
        theirs, weights = peer(*[to_torch(x)] * 3, attn_mask=to_torch(~mask), need_weights=True)
        assert theirs[:, 2].isnan().all()
        assert weights[:, 2].isnan().all()
        output, our_weights = mirror(self.ours(mirror, peer), x, mask=mask)
        np.testing.assert_array_equal(numpy(our_weights)[:, :, 2], 0.0)
        bias = np.broadcast_to(numpy(peer.out_proj.bias), (BATCH, EMBED))
        np.testing.assert_array_equal(numpy(output)[:, 2], bias)
        others = [0, 1, 3, 4]
        assert_same(numpy(output)[:, others], theirs[:, others])


def hub_weights(peer, names):
    """The weights of a PyTorch layer under the mirrors' names; its packed projections are split into three."""
    weights = {}
    for name, tensor in peer.state_dict().items():
        part, _, rest = name.partition(".")
        if rest.startswith("in_proj_"):
            kind = rest.removeprefix("in_proj_")
            for projection, third in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{names[part]}.{projection}_proj.{kind}"] = third.clone()
        else:
            weights[f"{names[part]}.{rest}"] = tensor
    return weights


class TestTransformerLayersOfTorch:
    DECODER = (
        ("self_attn", "self_attention"),
        ("multihead_attn", "cross_attention"),
        ("linear1", "ffn.up_proj"),
        ("linear2", "ffn.down_proj"),
        ("norm1", "self_norm"),
        ("norm2", "cross_norm"),
        ("norm3", "ffn_norm"),
    )
    ENCODER = (
        ("self_attn", "attention"),
        ("linear1", "ffn.up_proj"),
        ("linear2", "ffn.down_proj"),
        ("norm1", "attention_norm"),
        ("norm2", "ffn_norm"),
    )

    @pytest.mark.parametrize("norm_first", [False, True])
    @pytest.mark.parametrize("activation", ["relu", "gelu"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_decoder_block(self, mirror, norm_first, activation, masked, rng):
        options = {"norm_first": norm_first, "activation": activation}
        peer = nn.TransformerDecoderLayer(
            EMBED, HEADS, FFN, dropout=0.0, batch_first=True, dtype=torch.float64, **options
        )
        randomise(peer, rng)
        x, memory = draw(rng, (BATCH, QUERY, EMBED), (BATCH, KEY, EMBED))
        causal = np.tri(QUERY, dtype=bool)
        self_mask = seeing(rng, QUERY, QUERY) if masked else None
        memory_mask = seeing(rng, BATCH, 1, 1, KEY) if masked else None
        expected = peer(
            to_torch(x),
            to_torch(memory),
            tgt_mask=~to_torch(causal & self_mask if masked else causal),
            memory_key_padding_mask=~to_torch(memory_mask[:, 0, 0]) if masked else None,
        )
        weights = hub_weights(peer, dict(self.DECODER))
        ours = mirror.build("EncoderDecoderAttention", weights, EMBED, HEADS, FFN, **options)
        for need_weights in (True, False):
            masks = {"self_mask": self_mask, "memory_mask": memory_mask}
            assert_same(mirror(ours, x, memory, **masks, need_weights=need_weights).output, expected)

    @pytest.mark.parametrize("activation", ["relu", "gelu"])
    @pytest.mark.parametrize("training", [False, True])
    def test_encoder_layer(self, mirror, activation, training, rng):
        peer = nn.TransformerEncoderLayer(
            EMBED, HEADS, FFN, dropout=0.0, activation=activation, batch_first=True, dtype=torch.float64
        )
        randomise(peer, rng).train(training)
        [x] = draw(rng, (BATCH, QUERY, EMBED))
        mask = seeing(rng, BATCH, 1, 1, QUERY)
        expected = peer(to_torch(x), src_key_padding_mask=~to_torch(mask[:, 0, 0]))
        config = mirror.names.EncoderConfig(
            vocab_size=11,
            embed_dim=EMBED,
            num_heads=HEADS,
            num_layers=1,
            ffn_dim=FFN,
            max_len=QUERY,
            activation=activation,
            norm_eps=1e-5,
        )
        ours = mirror.build("EncoderLayer", hub_weights(peer, dict(self.ENCODER)), config)
        assert_same(mirror(ours, x, mask=mask).output, expected)


def native_of_jax(query, key, value, **options):
    """`jax.nn.dot_product_attention` with the head axis before the length axis."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    return jnp.swapaxes(jax.nn.dot_product_attention(query, key, value, **options), 1, 2)


class TestDotProductAttentionOfJax:
    """In float32: it computes its softmax in no other precision."""

    @pytest.fixture
    def arrays(self, rng):
        shapes = (BATCH, 6, QUERY, 4), (BATCH, 2, KEY, 4), (BATCH, 2, KEY, 4)
        return draw(rng, *shapes, dtype=np.float32)

    @pytest.mark.parametrize("kind", ["plain", "causal", "mask", "bias", "scale", "all at once"])
    def test_operation_equals_jax_nn(self, mirror, arrays, kind, rng):
        mask = seeing(rng, BATCH, 1, QUERY, KEY)
        bias = rng.standard_normal((1, 6, QUERY, KEY)).astype(np.float32)
        options = {
            "plain": {},
            "causal": {"is_causal": True},
            "mask": {"mask": mask},
            "bias": {"bias": bias},
            "scale": {"scale": 0.3},
            "all at once": {"is_causal": True, "mask": mask, "bias": bias, "scale": 0.3},
        }[kind]
        expected = native_of_jax(*arrays, **{name: to_jax(x) for name, x in options.items()})
        assert_same(mirror("dot_product_attention", *arrays, **options), expected)

    @pytest.mark.parametrize("window", [1, 2, 4])
    def test_window_counts_the_keys_before_the_own(self, mirror, arrays, window):
        given = mirror("dot_product_attention", *arrays, is_causal=True, window=window)
        right = native_of_jax(*arrays, is_causal=True, local_window_size=(window - 1, 0))
        assert_same(given, right)
        trap = native_of_jax(*arrays, is_causal=True, local_window_size=(window, 0))
        assert np.abs(numpy(given) - numpy(trap)).max() > 1e-2
        assert_same(mirror("dot_product_attention", *arrays, is_causal=True, window=window + 1), trap)

    def test_fully_masked_row_is_the_mean_of_all_values_there_and_zero_here(self, mirror, arrays):
        mask = np.ones((QUERY, KEY), bool)
        mask[2] = False
        theirs = numpy(native_of_jax(*arrays, mask=to_jax(mask)))
        mean = np.repeat(arrays[2].mean(axis=2), 3, axis=1)
        assert_same(theirs[:, :, 2], mean)
        ours = numpy(mirror("dot_product_attention", *arrays, mask=mask))
        np.testing.assert_array_equal(ours[:, :, 2], 0.0)
        others = [0, 1, 3, 4]
        assert_same(ours[:, :, others], theirs[:, :, others])

    def test_row_masked_by_the_bias_is_nan_there_and_zero_here(self, mirror, arrays):
        bias = np.zeros((QUERY, KEY), np.float32)
        bias[2] = -np.inf
        assert np.isnan(numpy(native_of_jax(*arrays, bias=to_jax(bias)))[:, :, 2]).all()
        ours = numpy(mirror("dot_product_attention", *arrays, bias=bias))
        np.testing.assert_array_equal(ours[:, :, 2], 0.0)
        assert np.isfinite(ours).all()

    @pytest.mark.usefixtures("as_shipped")
    def test_rank_3_mask_is_per_head_there_and_per_batch_here(self, mirror, arrays, rng):
        of_heads = seeing(rng, 6, QUERY, KEY)
        np.testing.assert_array_equal(
            native_of_jax(*arrays, mask=to_jax(of_heads)), native_of_jax(*arrays, mask=to_jax(of_heads[None]))
        )
        with pytest.raises(ValueError, match=r"mask must have shape .*got \(6, 5, 7\)"):
            mirror("dot_product_attention", *arrays, mask=of_heads)
        of_batch = seeing(rng, BATCH, QUERY, KEY)
        expected = native_of_jax(*arrays, mask=to_jax(of_batch[:, None]))
        assert_same(mirror("dot_product_attention", *arrays, mask=of_batch), expected)

    def test_float64_is_lost_there_and_kept_here(self, arrays):
        with in_double():
            doubles = [jnp.asarray(x, dtype=jnp.float64) for x in arrays]
            theirs = numpy(native_of_jax(*doubles))
            ours = numpy(jax_attention.dot_product_attention(*doubles))
        exact = numpy(torch_attention.dot_product_attention(*(to_torch(numpy(x)) for x in doubles)))
        assert theirs.dtype == ours.dtype == np.float64
        assert np.abs(theirs - exact).max() > 1e-10
        assert_same(ours, exact)


def weights_of_flax(parameters):
    """Flax's multi-head attention weights, such as `query/kernel` (embed, head, head_dim), under our names."""
    weights = {}
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
        kernel, bias = (numpy(parameters[theirs][name]) for name in ("kernel", "bias"))
        features = kernel.shape[-1] if theirs == "out" else math.prod(kernel.shape[1:])
        weights[f"{ours}.weight"] = np.ascontiguousarray(kernel.reshape(-1, features).T)
        weights[f"{ours}.bias"] = bias.reshape(-1)
    return weights


class TestMultiHeadAttentionOfFlax:
    @pytest.fixture(params=["float64", "float32"])
    def dtype(self, request):
        return request.param

    def nnx_peer(self, rng, dtype, **options):
        """A Flax layer with random biases, and its weights under this package's names."""
        with in_double():
            peer = nnx.MultiHeadAttention(
                HEADS, EMBED, **options, decode=False, param_dtype=dtype, dtype=dtype, rngs=nnx.Rngs(0)
            )
            state = nnx.to_flat_state(nnx.state(peer, nnx.Param))
            for _, parameter in state:
                parameter[...] = jnp.asarray(0.5 * rng.standard_normal(parameter.shape), dtype=dtype)
            nnx.update(peer, nnx.from_flat_state(state))
            return peer, weights_of_flax(nnx.to_pure_dict(nnx.state(peer, nnx.Param)))

    def call(self, peer, *inputs, **options):
        """Output and weights of the layer; it computes in float64 only when the weights are requested."""
        with in_double():
            watched = nnx.capture(peer, nnx.Intermediate)
            output, sown = watched(*map(jnp.asarray, inputs), **options, sow_weights=True)
            return output, sown["attention_weights"][0]

    @pytest.mark.parametrize("kind", ["plain", "mask", "causal"])
    def test_nnx_self_attention(self, mirror, dtype, kind, rng):
        peer, weights = self.nnx_peer(rng, dtype)
        [x] = draw(rng, (BATCH, QUERY, EMBED), dtype=dtype)
        each = seeing(rng, BATCH, HEADS, QUERY, QUERY)
        mask = {"plain": None, "mask": each, "causal": np.tri(QUERY, dtype=bool)}[kind]
        theirs = None if mask is None else to_jax(np.broadcast_to(mask, each.shape))
        name = "CausalSelfAttention" if kind == "causal" else "MultiHeadSelfAttention"
        ours = mirror.build(name, weights, EMBED, HEADS, dtype=dtype)
        given = mirror(ours, x, mask=mask if kind == "mask" else None)
        for one, other in zip(given, self.call(peer, x, mask=theirs), strict=True):
            assert_same(one, other)

    def test_nnx_without_weights(self, mirror, rng):
        peer, weights = self.nnx_peer(rng, "float32")
        [x] = draw(rng, (BATCH, QUERY, EMBED), dtype="float32")
        ours = mirror.build("CausalSelfAttention", weights, EMBED, HEADS, dtype="float32")
        expected = peer(jnp.asarray(x), is_causal=True)
        assert_same(mirror(ours, x, need_weights=False).output, expected)

    def test_nnx_cross_attention_to_other_features(self, mirror, dtype, rng):
        peer, weights = self.nnx_peer(rng, dtype, in_kv_features=MEMORY)
        x, memory = draw(rng, (BATCH, QUERY, EMBED), (BATCH, KEY, MEMORY), dtype=dtype)
        mask = seeing(rng, BATCH, 1, 1, KEY)
        ours = mirror.build("MultiHeadCrossAttention", weights, EMBED, MEMORY, EMBED, HEADS, dtype=dtype)
        given = mirror(ours, x, memory, mask=mask)
        for one, other in zip(given, self.call(peer, x, memory, mask=to_jax(mask)), strict=True):
            assert_same(one, other)

    def test_nnx_shares_key_heads_in_the_same_way(self, mirror, rng):
        with in_double():
            query, key, value = (
                jnp.asarray(x)
                for x in draw(rng, (BATCH, QUERY, 6, 4), (BATCH, KEY, 2, 4), (BATCH, KEY, 2, 4))
            )
            one = {"dropout_rate": 0.1, "deterministic": True}  # otherwise the softmax runs in float32
            expected = jnp.swapaxes(nnx.dot_product_attention(query, key, value, **one), 1, 2)
        arrays = [np.swapaxes(numpy(x), 1, 2) for x in (query, key, value)]
        assert_same(mirror("dot_product_attention", *arrays), expected)

    def test_linen(self, mirror, dtype, rng):
        x, memory = draw(rng, (BATCH, QUERY, EMBED), (BATCH, KEY, MEMORY), dtype=dtype)
        mask = seeing(rng, BATCH, HEADS, QUERY, KEY)
        with in_double():
            peer = linen.MultiHeadDotProductAttention(HEADS, dtype=dtype, param_dtype=dtype)
            inputs = jnp.asarray(x), jnp.asarray(memory)
            shapes = jax.eval_shape(peer.init, jax.random.key(0), *inputs)
            variables = jax.tree.map(
                lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), dtype=dtype), shapes
            )
            expected, sown = peer.apply(
                variables, *inputs, mask=to_jax(mask), sow_weights=True, mutable="intermediates"
            )
        [weights] = sown["intermediates"]["attention_weights"]
        ours = mirror.build(
            "MultiHeadCrossAttention",
            weights_of_flax(variables["params"]),
            EMBED,
            MEMORY,
            EMBED,
            HEADS,
            dtype=dtype,
        )
        for one, other in zip(mirror(ours, x, memory, mask=mask), (expected, weights), strict=True):
            assert_same(one, other)

    @pytest.mark.usefixtures("as_shipped")
    def test_additive_mask_is_inverted_by_nnx_and_raises_here(self, mirror, rng):
        peer, weights = self.nnx_peer(rng, "float32")
        [x] = draw(rng, (BATCH, QUERY, EMBED), dtype="float32")
        seen = np.tri(QUERY, dtype=bool)
        additive = np.where(seen, 0.0, -np.inf).astype(np.float32)
        theirs = peer(jnp.asarray(x), mask=jnp.asarray(additive))
        np.testing.assert_array_equal(theirs, peer(jnp.asarray(x), mask=jnp.asarray(~seen)))
        ours = mirror.build("MultiHeadSelfAttention", weights, EMBED, HEADS, dtype="float32")
        with pytest.raises(TypeError, match="mask must be boolean"):
            mirror(ours, x, mask=additive)


class TestDefaults:
    """Settings that the mirrors state explicitly, because the frameworks' defaults differ."""

    def test_gelu_is_by_erf_in_torch_and_by_tanh_in_jax(self, rng):
        [x] = draw(rng, (QUERY, KEY))
        with in_double():
            assert_same(jax.nn.gelu(jnp.asarray(x)), F.gelu(to_torch(x), approximate="tanh"))
            assert_same(jax.nn.gelu(jnp.asarray(x), approximate=False), F.gelu(to_torch(x)))

    def test_eps_of_layer_norm_differs(self):
        assert nn.LayerNorm(EMBED).eps == 1e-5
        assert nnx.LayerNorm(EMBED, rngs=nnx.Rngs(0)).epsilon == 1e-6
