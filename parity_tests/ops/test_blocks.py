"""Long sequences without weights are computed in blocks, with the outputs and gradients of all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.weights import transfer
from parity_tests.helpers import shape_checks

BATCH, HEADS, LENGTH, EMBED, HEAD_DIM, BLOCK = 2, 3, 300, 12, 4, 5
SIZES = {"embed_dim": EMBED, "num_heads": HEADS}
ROTARY = {"position": Part("RotaryEmbedding", {"head_dim": HEAD_DIM})}
T5 = {"position": Part("T5Bias", {"num_heads": HEADS, "num_buckets": 8, "max_distance": 20})}
TRANSFORMER_XL = {
    "position": Part("TransformerXLEmbedding", {"embed_dim": EMBED, "num_heads": HEADS, "head_dim": HEAD_DIM})
}
HASHING = {"num_buckets": 60, "chunk_length": 5, "num_rounds": 2}
ALIBI = {"position": Part("ALiBi", {"num_heads": HEADS})}

GLOBAL = np.zeros((BATCH, LENGTH), bool)
GLOBAL[0, :3] = GLOBAL[0, 200] = GLOBAL[1, -1] = True
RANDOM = np.random.default_rng(5).integers(-1, LENGTH // BLOCK, (HEADS, LENGTH // BLOCK, 4)).astype(np.int32)
PADDING = (np.arange(LENGTH) < np.array([[LENGTH - 70], [LENGTH]]))[:, None, None]
PAIRS = np.random.default_rng(6).random((BATCH, HEADS, LENGTH, LENGTH)) < 0.7
PAIRS[:, :, 5] = False  # a fully masked row
KEEP = np.random.default_rng(7).random((BATCH, HEADS, LENGTH, LENGTH)) < 0.5
REVERSED = np.arange(LENGTH - 1, -1, -1, dtype=np.int32)

CASES = {
    "sinks and rotary": ("StreamingAttention", {"window": 5, "num_sinks": 2, **ROTARY}, {"mask": PADDING}),
    "sinks and a bias": ("StreamingAttention", {"window": 50, "num_sinks": 1, **T5}, {"mask": PAIRS}),
    "no sinks": ("StreamingAttention", {"window": 9, "num_sinks": 0, **ROTARY}, {"dropout_keep": KEEP}),
    "chunks": ("ChunkedAttention", {"chunk_size": 7, **ROTARY}, {"positions": REVERSED}),
    "chunks and padding": ("ChunkedAttention", {"chunk_size": 7}, {"mask": PADDING, "dropout_keep": KEEP}),
    "a window and a bias": ("SlidingWindowAttention", {"window": 7, **T5}, {}),
    "a window of one": ("SlidingWindowAttention", {"window": 1}, {"mask": PADDING}),
    "neighbours": ("LongformerAttention", {"one_sided_window": 9, **ALIBI}, {"mask": PAIRS}),
    "global tokens": (
        "LongformerAttention",
        {"one_sided_window": 9},
        {"global_tokens": GLOBAL, "mask": PADDING},
    ),
    "global tokens and rotary": (
        "LongformerAttention",
        {"one_sided_window": 40, **ROTARY},
        {"global_tokens": GLOBAL, "mask": PAIRS, "positions": REVERSED},
    ),
    "all tokens global": ("LongformerAttention", {"one_sided_window": 2}, {"global_tokens": GLOBAL | True}),
    "global tokens and a bias": (
        "LongformerAttention",
        {"one_sided_window": 9, **T5},
        {"global_tokens": GLOBAL},
    ),
    "global tokens and a dropout mask": (
        "LongformerAttention",
        {"one_sided_window": 9},
        {"global_tokens": GLOBAL, "mask": PAIRS, "dropout_keep": KEEP},
    ),
    "global tokens, a bias of queries and a dropout mask": (
        "LongformerAttention",
        {"one_sided_window": 40, **TRANSFORMER_XL},
        {"global_tokens": GLOBAL, "mask": PADDING, "dropout_keep": KEEP, "positions": REVERSED},
    ),
    "random blocks": ("BigBirdAttention", {"block_size": BLOCK}, {"random_blocks": RANDOM, "mask": PAIRS}),
    "random blocks and rotary": (
        "BigBirdAttention",
        {"block_size": BLOCK, **ROTARY},
        {"random_blocks": RANDOM, "positions": REVERSED, "dropout_keep": KEEP},
    ),
    "random blocks and a bias": (
        "BigBirdAttention",
        {"block_size": BLOCK, **T5},
        {"random_blocks": RANDOM, "mask": PAIRS, "dropout_keep": KEEP},
    ),
    "blocks and a bias of queries": (
        "BigBirdAttention",
        {"block_size": BLOCK, **TRANSFORMER_XL},
        {"random_blocks": RANDOM, "positions": REVERSED},
    ),
    "blocks and a bias": ("BigBirdAttention", {"block_size": BLOCK, **ALIBI}, {"mask": PADDING}),
    "hashing and a dropout mask": (
        "LSHAttention",
        {**HASHING, "is_causal": True},
        {"mask": PADDING, "dropout_keep": KEEP},
    ),
    "hashing that counts repeats and a dropout mask": (
        "LSHAttention",
        {**HASHING, "circular": True, "count_repeats": True},
        {"dropout_keep": KEEP},
    ),
    "no ends": ("BigBirdAttention", {"block_size": BLOCK, "window_blocks": 1, "global_blocks": 0}, {}),
}
QUICK = ("sinks and rotary", "global tokens", "random blocks")  # one per way of splitting into blocks
marks = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", marks)
def test_blocks_equal_all_pairs(rng, name):
    kind, options, given = CASES[name]
    part = Part(kind, {**SIZES, **options, "dropout": 0.5})
    ours = build(part, "torch_attention", {"dtype": torch.float64}).eval()
    x, cotangent = rng.standard_normal((2, BATCH, LENGTH, EMBED))
    tensors = {key: torch.from_numpy(value) for key, value in given.items()}

    def torch_run(need_weights):
        leaf = torch.from_numpy(x).requires_grad_()
        ours.zero_grad()
        output = ours(leaf, **tensors, need_weights=need_weights).output
        (output * torch.from_numpy(cotangent)).sum().backward()
        gradients = {key: 0.0 if p.grad is None else p.grad.numpy() for key, p in ours.named_parameters()}
        return {"output": output.detach().numpy(), "x": leaf.grad.numpy(), **gradients}

    expected, found = torch_run(True), torch_run(False)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key] + 0.0 * value, value, atol=1e-11, err_msg=key)

    with jax.enable_x64(True):
        theirs = build(part, "jax_attention", {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64})
        theirs.eval()
        definition, state = nnx.split(transfer(ours, theirs))

        def loss(state, x):
            arrays = {key: jnp.asarray(value) for key, value in given.items()}
            output = nnx.merge(definition, state)(x, **arrays, need_weights=False).output
            return (output * cotangent).sum(), output

        run = jax.jit(jax.grad(loss, argnums=1, has_aux=True))
        gradient, output = run(state, jnp.asarray(x))
    np.testing.assert_allclose(output, expected["output"], atol=1e-11)
    np.testing.assert_allclose(gradient, expected["x"], atol=1e-11)


@pytest.mark.parametrize("name", marks)
def test_blocks_need_no_promotion_of_ranks_or_dtypes(name):
    kind, options, given = CASES[name]
    part = Part(kind, {**SIZES, **options, "dropout": 0.5})
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        definition, state = nnx.split(build(part, "jax_attention", {"rngs": nnx.Rngs(0)}))
        arrays = {key: jnp.asarray(value) for key, value in given.items()}

        def total(x):
            module = nnx.merge(definition, state, copy=True)
            return module(x, **arrays, need_weights=False).output.sum()

        x = jnp.zeros((BATCH, LENGTH, EMBED), jnp.float32)
        assert jax.eval_shape(jax.grad(total), x).shape == x.shape


@pytest.mark.parametrize(
    "name",
    [
        "sinks and rotary",
        "chunks",
        pytest.param("global tokens and a bias", marks=pytest.mark.slow),
        pytest.param("random blocks and a bias", marks=pytest.mark.slow),
        pytest.param("hashing and a dropout mask", marks=pytest.mark.slow),
    ],
)
def test_random_dropout_in_blocks_keeps_the_mean(name):
    kind, options, given = CASES[name]
    module = build(Part(kind, {**SIZES, **options, "dropout": 0.3}), "torch_attention", {})
    tensors = {key: torch.from_numpy(x) for key, x in given.items() if key != "dropout_keep"}
    x = torch.randn(BATCH, LENGTH, EMBED, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        mean = sum(module(x, **tensors, need_weights=False).output for _ in range(100)) / 100
        expected = module.eval()(x, **tensors, need_weights=False).output
    assert not torch.equal(mean, expected)
    assert (mean - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_masked_key_with_nan_has_no_influence_in_blocks():
    x = torch.randn(1, LENGTH, EMBED, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(LENGTH) != 150)[None, None, None]
    attention = torch_attention.LongformerAttention(EMBED, HEADS, one_sided_window=9)
    global_tokens = torch.arange(LENGTH)[None] < 2
    outputs = []
    for value in (0.0, float("nan")):
        with torch.no_grad():
            given = x.clone()
            given[0, 150] = value
            output = attention(given, mask, global_tokens=global_tokens, need_weights=False).output
            outputs.append(torch.cat([output[:, :150], output[:, 151:]], dim=1))
    assert torch.equal(*outputs)


def test_second_derivatives_equal_those_of_all_pairs():
    attention = torch_attention.LongformerAttention(EMBED, HEADS, one_sided_window=9, dtype=torch.float64)
    x = torch.randn(1, LENGTH, EMBED, dtype=torch.float64, requires_grad=True)
    found = []
    for need_weights in (True, False):
        output = attention(x, global_tokens=torch.from_numpy(GLOBAL[:1]), need_weights=need_weights).output
        (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(
    shape_checks.are_on(),
    reason="shape checks wrap every function, too many for the compiler: `make test-slow`",
)
@pytest.mark.parametrize("kind", ["StreamingAttention", "ChunkedAttention"])
def test_sequence_in_blocks_compiles_as_one_graph(kind):
    size = {"window": 5} if kind == "StreamingAttention" else {"chunk_size": 5}
    attention = build(Part(kind, {**SIZES, **size}), "torch_attention", {}).eval()
    x = torch.randn(1, LENGTH, EMBED)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    with torch.no_grad():
        found, expected = compiled(x, need_weights=False), attention(x, need_weights=False)
    torch.testing.assert_close(found.output, expected.output)


@pytest.mark.slow
def test_random_dropout_in_jax_is_the_same_in_the_backward_pass():
    part = Part("LongformerAttention", {**SIZES, "one_sided_window": 9, "dropout": 0.5, **T5})
    definition, state = nnx.split(build(part, "jax_attention", {"rngs": nnx.Rngs(0)}))
    x, along = np.random.default_rng(3).standard_normal((2, BATCH, LENGTH, EMBED)).astype(np.float32)

    @jax.jit
    def total(x):
        module = nnx.merge(definition, state, copy=True)
        return (module(x, global_tokens=jnp.asarray(GLOBAL), need_weights=False).output ** 2).sum()

    with jax.enable_x64(True):
        x, along = jnp.asarray(x, jnp.float64), jnp.asarray(along, jnp.float64)
        difference = (total(x + 1e-4 * along) - total(x - 1e-4 * along)) / 2e-4
        np.testing.assert_allclose((jax.grad(total)(x) * along).sum(), difference, rtol=1e-3)


def test_short_sequence_has_no_blocks():
    for mirror in (torch_attention, jax_attention):
        blocks = __import__(f"{mirror.__name__}.patterns.blocks", fromlist=["blocks_of"])
        assert blocks.blocks_of(blocks.SHORT, 5, 0) is None
        assert blocks.blocks_of(1000, 2000, 0) is None
        assert blocks.blocks_of(1000, 5, 0).count == -(-1000 // blocks.SMALL)
