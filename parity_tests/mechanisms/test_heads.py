"""Heads that share keys and values: equal special cases of the classes, and caches of latents."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import Part
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with
from attention_bridge.parity.run import run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.refusals import Case, assert_impossible, assert_refused

BATCH, LENGTH, EMBED, HEADS = 2, 5, 12, 3
RANK, NOPE, ROPE, VALUE = 7, 5, 4, 2
CLOSE = 1e-12  # of float64

LATENT = {
    "embed_dim": EMBED,
    "num_heads": HEADS,
    "kv_lora_rank": RANK,
    "nope_head_dim": NOPE,
    "rope_head_dim": ROPE,
    "value_head_dim": VALUE,
}
each_query = pytest.mark.parametrize(
    "arguments", [None, 9], indirect=True, ids=["queries from x", "queries from a latent"]
)
ROTARY = Part("RotaryEmbedding", {"head_dim": ROPE, "interleaved": True})


def weights(rng, name, **arguments):
    """Random weights for a class, by their PyTorch names."""
    shapes = build(Part(name, arguments), "torch_attention", {"device": "meta"}).state_dict()
    return {key: 0.5 * rng.standard_normal(x.shape) for key, x in shapes.items()}


@pytest.fixture(params=["torch", "jax"])
def mirror(request):
    """Build a float64 module of a class with given weights; it takes and returns arrays made by `array`."""
    if request.param == "torch":
        yield lambda name, w, **arguments: transfer(
            w, build(Part(name, arguments), "torch_attention", {"dtype": torch.float64})
        )
    else:
        with jax.enable_x64(True):
            yield lambda name, w, **arguments: transfer(
                w,
                build(
                    Part(name, arguments), "jax_attention", {"rngs": nnx.Rngs(0), "param_dtype": "float64"}
                ),
            )


@pytest.fixture
def array(mirror, request):
    return {"torch": torch.from_numpy, "jax": jnp.asarray}[request.node.callspec.params["mirror"]]


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def assert_close(given, expected):
    for one, other in zip(given, expected, strict=True):
        assert error(numpy(one), numpy(other)) < CLOSE


GROUPED = {"embed_dim": EMBED, "num_heads": 4, "num_kv_heads": 2}


class TestNormsOfHeads:
    """Norms of queries and keys as arguments of grouped-query attention."""

    @pytest.mark.slow
    def test_rms_norms_make_it_attention_with_qk_norm(self, mirror, array, rng):
        w = weights(rng, "QKNormAttention", **GROUPED)
        x = array(rng.standard_normal((BATCH, LENGTH, EMBED)))
        norm = Part("rms_norm", {"dim": 3})
        grouped = mirror("GroupedQueryAttention", w, q_norm=norm, k_norm=norm, **GROUPED)
        assert_close(grouped(x), mirror("QKNormAttention", w, **GROUPED)(x))

    def test_layer_norm_of_heads_has_a_scale_for_each_head(self, mirror, array, rng):
        w = weights(rng, "GroupedQueryAttention", **GROUPED)
        scales = {"q_norm": rng.standard_normal((4, 3)), "k_norm": rng.standard_normal((2, 3))}
        norms = {
            name: Part("head_layer_norm", {"num_heads": len(x), "dim": 3, "eps": 0.1})
            for name, x in scales.items()
        }
        w |= {f"{name}.head_scale": x for name, x in scales.items()}
        grouped = mirror("GroupedQueryAttention", w, **norms, **GROUPED)
        x = rng.standard_normal((BATCH, LENGTH, EMBED))
        shown = numpy(grouped(array(x)).weights)

        def heads(name):
            y = (x @ w[f"{name}_proj.weight"].T + w[f"{name}_proj.bias"]).reshape(BATCH, LENGTH, -1, 3)
            y = y - y.mean(-1, keepdims=True)
            return scales[f"{name}_norm"] * y / np.sqrt((y * y).mean(-1, keepdims=True) + 0.1)

        scores = np.einsum("bqhd,bkhd->bhqk", heads("q"), heads("k").repeat(2, axis=2)) / np.sqrt(3)
        expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        assert error(shown, expected) < CLOSE

    @pytest.mark.parametrize("clip", [None, 0.4])
    @pytest.mark.parametrize("after", [False, True])
    def test_clip_and_norms_after_positions_equal_numpy(self, after, clip, mirror, array, rng):
        w = weights(rng, "GroupedQueryAttention", embed_dim=EMBED, num_heads=2, num_kv_heads=1)
        scales = {name: rng.standard_normal(6) for name in ("q_norm", "k_norm")}
        w |= {f"{name}.weight": x for name, x in scales.items()}
        sizes = {"embed_dim": EMBED, "num_heads": 2, "num_kv_heads": 1, "clip": clip}
        position = Part("RotaryEmbedding", {"head_dim": 6, "base": 50.0})
        norms = dict.fromkeys(scales, Part("rms_norm", {"dim": 6, "eps": 0.1}))
        grouped = mirror(
            "GroupedQueryAttention", w, **norms, **sizes, position=position, norm_after_position=after
        )
        x = rng.standard_normal((BATCH, LENGTH, EMBED))
        angles = np.arange(LENGTH)[:, None] * 50.0 ** (-np.arange(3) / 3)

        def heads(name):
            y = x @ w[f"{name}_proj.weight"].T + w[f"{name}_proj.bias"]
            y = y if clip is None else np.clip(y, -clip, clip)
            y = y.reshape(BATCH, LENGTH, -1, 6).swapaxes(1, 2)
            steps = [
                lambda y: scales[f"{name}_norm"] * y / np.sqrt((y * y).mean(-1, keepdims=True) + 0.1),
                lambda y: np.concatenate(
                    [
                        y[..., :3] * np.cos(angles) - y[..., 3:] * np.sin(angles),
                        y[..., 3:] * np.cos(angles) + y[..., :3] * np.sin(angles),
                    ],
                    -1,
                ),
            ]
            for step in steps[::-1] if after else steps:
                y = step(y)
            return y

        scores = heads("q") @ heads("k").swapaxes(-1, -2) / np.sqrt(6)
        expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        assert error(numpy(grouped(array(x)).weights), expected) < CLOSE


class TestHeadsThatShare:
    @pytest.mark.slow
    def test_one_key_head_is_multi_query_attention(self, mirror, array, rng):
        w = weights(rng, "MultiQueryAttention", embed_dim=EMBED, num_heads=HEADS)
        x = array(rng.standard_normal((BATCH, LENGTH, EMBED)))
        multi_query = mirror("MultiQueryAttention", w, embed_dim=EMBED, num_heads=HEADS)
        grouped = mirror("GroupedQueryAttention", w, embed_dim=EMBED, num_heads=HEADS, num_kv_heads=1)
        assert_close(multi_query(x), grouped(x))

    def test_equal_numbers_of_heads_are_multi_head_attention(self, mirror, array, rng):
        w = weights(rng, "MultiHeadSelfAttention", embed_dim=EMBED, num_heads=HEADS)
        x = array(rng.standard_normal((BATCH, LENGTH, EMBED)))
        multi_head = mirror("MultiHeadSelfAttention", w, embed_dim=EMBED, num_heads=HEADS)
        grouped = mirror("GroupedQueryAttention", w, embed_dim=EMBED, num_heads=HEADS, num_kv_heads=HEADS)
        assert_close(grouped(x), multi_head(x))

    @pytest.mark.slow
    @pytest.mark.parametrize("num_kv_heads", [1, 2])
    def test_shared_heads_are_multi_head_attention_with_repeated_key_heads(
        self, mirror, array, num_kv_heads, rng
    ):
        sizes = {"embed_dim": EMBED, "num_heads": 4}
        w = weights(rng, "GroupedQueryAttention", **sizes, num_kv_heads=num_kv_heads)
        x = array(rng.standard_normal((BATCH, LENGTH, EMBED)))

        def spread(name, tensor, copy):
            heads = tensor.reshape(num_kv_heads, 3, -1) if name[0] in "kv" else tensor
            return copy(heads).reshape(EMBED, -1).squeeze() if name[0] in "kv" else tensor

        times = 4 // num_kv_heads
        repeated = {
            name: spread(name, tensor, lambda heads: np.repeat(heads, times, axis=0))
            for name, tensor in w.items()
        }
        tiled = {
            name: spread(name, tensor, lambda heads: np.tile(heads, (times, 1, 1)))
            for name, tensor in w.items()
        }
        given = mirror("GroupedQueryAttention", w, **sizes, num_kv_heads=num_kv_heads)(x)
        assert_close(given, mirror("MultiHeadSelfAttention", repeated, **sizes)(x))
        wrong = mirror("MultiHeadSelfAttention", tiled, **sizes)(x)
        assert (error(numpy(given.output), numpy(wrong.output)) > 1e-2) == (num_kv_heads > 1)


class TestLatentAttention:
    @pytest.fixture
    def arguments(self, request):
        return {**LATENT, "position": ROTARY, "q_lora_rank": getattr(request, "param", 9)}

    @pytest.fixture
    def pair(self, mirror, arguments, rng):
        w = weights(rng, "MultiHeadLatentAttention", **arguments)
        return mirror("MultiHeadLatentAttention", w, **arguments), mirror(
            "AbsorbedLatentAttention", w, **arguments
        )

    @pytest.fixture
    def x(self, array, rng):
        return array(rng.standard_normal((BATCH, LENGTH, EMBED)))

    @each_query
    def test_absorbed_form_has_the_same_parameters(self, arguments):
        names = ("MultiHeadLatentAttention", "AbsorbedLatentAttention")
        full, absorbed = (build(Part(name, arguments), "torch_attention", {}) for name in names)
        shapes = ({key: x.shape for key, x in module.state_dict().items()} for module in (full, absorbed))
        assert next(shapes) == next(shapes)

    @pytest.mark.slow
    @each_query
    @pytest.mark.parametrize("need_weights", [True, False])
    def test_absorbed_form_equals_the_full_form(self, pair, x, need_weights):
        full, absorbed = (form(x, need_weights=need_weights) for form in pair)
        assert_close([absorbed.output], [full.output])
        if need_weights:
            assert_close([absorbed.weights], [full.weights])
        else:
            assert absorbed.weights is None

    @pytest.mark.slow
    @pytest.mark.parametrize("split", range(1, LENGTH))
    def test_two_calls_with_a_cache_equal_one_call(self, pair, x, split):
        full, absorbed = pair
        expected = full(x)
        first = absorbed(x[:, :split], cache=growing(x))
        second = absorbed(x[:, split:], cache=first.cache)
        assert_close([first.output, second.output], [expected.output[:, :split], expected.output[:, split:]])
        assert_close(
            [first.weights, second.weights],
            [expected.weights[:, :, :split, :split], expected.weights[:, :, split:]],
        )
        assert_close(second.cache.entries, absorbed(x, cache=growing(x)).cache.entries)
        assert_close(second.cache.entries, full(x, cache=growing(x)).cache.entries)

    @pytest.mark.slow
    def test_single_positions_under_a_mask_equal_one_call(self, pair, x, array, rng):
        full, absorbed = pair
        mask = rng.random((BATCH, 1, 1, LENGTH)) < 0.6
        expected, cache = full(x, array(mask)), growing(x)
        for i in range(LENGTH):
            seen = array(np.ascontiguousarray(mask[..., i : i + 1]))
            output, cache, step = absorbed(x[:, i : i + 1], seen, cache=cache)
            assert_close(
                [output, step], [expected.output[:, i : i + 1], expected.weights[:, :, i : i + 1, : i + 1]]
            )

    @pytest.mark.slow
    def test_both_forms_have_the_same_gradients(self, arguments, rng):
        w = weights(rng, "MultiHeadLatentAttention", **arguments)
        given = {"x": rng.standard_normal((BATCH, LENGTH, EMBED)), "need_weights": True}
        counted = ("output", "weights")
        with jax.enable_x64(True):
            runs = []
            for name in ("MultiHeadLatentAttention", "AbsorbedLatentAttention"):
                part = Part(name, arguments)
                ours = transfer(w, build(part, "torch_attention", {"dtype": torch.float64}))
                theirs = jax_with(part, w, {"param_dtype": "float64"})
                runs += [run_torch(ours, given, counted), run_jax(theirs, given, counted)]
        for run in runs[1:]:
            assert run.gradients.keys() == runs[0].gradients.keys() == {"x", *w}
            for name, gradient in runs[0].gradients.items():
                assert error(run.gradients[name], gradient) < CLOSE, name

    def test_gradients_flow_through_a_cache(self, arguments, rng):
        w = weights(rng, "MultiHeadLatentAttention", **arguments)
        full, absorbed = (
            transfer(w, build(Part(name, arguments), "torch_attention", {"dtype": torch.float64}))
            for name in ("MultiHeadLatentAttention", "AbsorbedLatentAttention")
        )
        x = torch.from_numpy(rng.standard_normal((BATCH, LENGTH, EMBED)))
        first = absorbed(x[:, :3], cache=torch_attention.GrowingCache())
        second = absorbed(x[:, 3:], cache=first.cache)
        torch.cat([first.output, second.output], 1).square().sum().backward()
        full(x).output.square().sum().backward()
        for one, other in zip(absorbed.parameters(), full.parameters(), strict=True):
            assert error(one.grad.numpy(), other.grad.numpy()) < CLOSE

    def test_cache_holds_one_latent_and_one_key_per_position(self, pair, x):
        latent, rope_key = pair[1](x, cache=growing(x)).cache.entries
        assert (latent.shape, rope_key.shape) == ((BATCH, LENGTH, RANK), (BATCH, LENGTH, ROPE))

    def test_scale_applies_to_both_forms(self, mirror, arguments, x, rng):
        w = weights(rng, "MultiHeadLatentAttention", **arguments)
        names = ("MultiHeadLatentAttention", "AbsorbedLatentAttention")
        full, absorbed = (mirror(name, w, **arguments, scale=0.1)(x).weights for name in names)
        assert_close([absorbed], [full])
        unscaled = mirror(names[0], w, **arguments, scale=(NOPE + ROPE) ** -0.5)(x)
        assert_close(unscaled, mirror(names[0], w, **arguments)(x))

    def test_order_of_keys_does_not_matter_without_rotation(self, mirror, x, rng):
        arguments = {**LATENT, "position": None, "is_causal": False}
        w = weights(rng, "MultiHeadLatentAttention", **arguments)
        attention = mirror("MultiHeadLatentAttention", w, **arguments)
        order = [2, 0, 4, 1, 3]
        assert_close([attention(x[:, order]).output], [attention(x).output[:, order]])
        turned = mirror("MultiHeadLatentAttention", w, **{**arguments, "position": ROTARY})
        assert error(numpy(turned(x[:, order]).output), numpy(turned(x).output[:, order])) > 1e-2

    def test_half_split_and_interleaved_pairs_are_permuted_features(self, mirror, arguments, x, rng):
        w = weights(rng, "MultiHeadLatentAttention", **arguments)
        order = [0, 2, 1, 3]  # even features first
        reordered = dict(w)
        heads = w["q_b_proj.weight"].reshape(HEADS, NOPE + ROPE, -1).copy()
        heads[:, NOPE:] = heads[:, NOPE:][:, order]
        reordered["q_b_proj.weight"] = heads.reshape(-1, heads.shape[-1])
        reordered["kv_a_proj.weight"] = w["kv_a_proj.weight"][[*range(RANK), *(RANK + np.array(order))]]
        half = {**arguments, "position": Part("RotaryEmbedding", {"head_dim": ROPE})}
        expected = mirror("MultiHeadLatentAttention", w, **arguments)(x)
        assert_close(mirror("MultiHeadLatentAttention", reordered, **half)(x), expected)
        wrong = mirror("MultiHeadLatentAttention", w, **half)(x)
        assert error(numpy(wrong.output), numpy(expected.output)) > 1e-2


def growing(x):
    """An empty growing cache, in the framework of `x`."""
    return torch_attention.GrowingCache() if isinstance(x, torch.Tensor) else jax_attention.GrowingCache()


def cache(m, latent=(2, 4, RANK), rope_key=(2, 4, ROPE)):
    """A static cache of four positions, in either mirror."""
    return m.package.GrowingCache(m.package.Latents(m.nan(*latent), m.nan(*rope_key)))


def look(m, mask=None, *, x=(2, 5, EMBED), **options):
    """A call of the absorbed form."""
    return partial(m.AbsorbedLatentAttention(**LATENT, position=None), m.nan(*x), mask, **options)


@pytest.mark.usefixtures("as_shipped")
class TestBadInput:
    @pytest.mark.parametrize(
        "case",
        [
            Case(
                "a sequence of other features",
                lambda m: look(m, x=(2, 5, 11)),
                ValueError,
                "x must have shape (batch, length, 12), got (2, 5, 11)",
            ),
            Case(
                "a cache of another batch",
                lambda m: look(m, cache=cache(m, latent=(3, 4, RANK))),
                ValueError,
                "cache must hold 2 sequences as x does, got 3",
            ),
            Case(
                "a mask of pairs with a cache",
                lambda m: look(m, m.ones(5, 9), cache=cache(m)),
                ValueError,
                "mask must have shape (batch, 1, 1, key) = (2, 1, 1, 5) here, "
                "as padding_mask(tokens, pad_id) gives it, got (5, 9)",
            ),
            Case(
                "a mask of numbers",
                lambda m: look(m, m.ones(2, 1, 1, 5, dtype=np.float32), cache=cache(m)),
                TypeError,
                "mask must be boolean (True: the query attends to the key), got float32; "
                ".bool() or .astype(bool) converts it, additive values go in bias",
            ),
            Case(
                "unused positions",
                lambda m: look(m, positions=m.ones(5, dtype=np.int32)),
                ValueError,
                "positions need a position scheme that reads them, got position=None",
            ),
        ],
        ids=lambda case: case.name,
    )
    def test_bad_call_raises_the_same_error_in_both(self, case):
        assert_refused(case)

    @pytest.mark.parametrize(
        "case",
        [
            Case(
                "a rotation of other features",
                lambda m: lambda: m.MultiHeadLatentAttention(**LATENT, position=m.package.RotaryEmbedding(6)),
                ValueError,
                "position must rotate rope_head_dim=4 features, got head_dim=6",
            ),
            Case(
                "no heads",
                lambda m: lambda: m.MultiHeadLatentAttention(**{**LATENT, "num_heads": 0}, position=None),
                ValueError,
                "num_heads must be at least 1, got 0",
            ),
            Case(
                "features that the heads do not divide",
                lambda m: lambda: m.MultiQueryAttention(12, 5),
                ValueError,
                "embed_dim must be divisible by num_heads, got embed_dim=12 and num_heads=5",
            ),
        ],
        ids=lambda case: case.name,
    )
    def test_bad_arguments_raise_the_same_error_in_both(self, case):
        assert_impossible(case)
