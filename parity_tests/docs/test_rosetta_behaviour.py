"""The behaviour of each attention call of docs/rosetta.md: masks, causality, weights, defaults and traps."""

from dataclasses import replace
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.rosetta import DEFAULTS, MASK_SHAPES, PEERS, TRAPS
from attention_bridge.weights import convert, transfer
from parity_tests.helpers.rosetta import PROOFS, defaults
from parity_tests.helpers.rosetta.calls import (
    BATCH,
    EMBED,
    HEADS,
    KEY,
    KV_HEADS,
    QUERY,
    Bench,
    array,
    is_model,
    is_operation,
    names,
    size,
    to_numpy,
)
from parity_tests.helpers.rosetta.cases import (
    SINGLE,
    WARNINGS,
    all_parameters,
    each,
    having,
    keys,
    own_place,
    public,
)

pytestmark = WARNINGS


class TestShapes:
    def draw(self, peer, rng, shape):
        """A random boolean mask of that shape, True for visible, and its meaning: `(batch, query, key)`."""
        n = keys(peer)
        mask = rng.random(size(shape.replace("key", "query") if is_model(peer) else shape)) < 0.6
        mask[..., 0] = True
        by_heads = {
            "query key": lambda: mask[None, None],
            "batch query key": lambda: mask[:, None],
            "heads query key": lambda: mask[None],
            "batch*heads query key": lambda: mask.reshape(BATCH, HEADS, QUERY, n),
            "batch key": lambda: mask[:, None, None],
        }.get(shape, lambda: mask)()
        seen = np.broadcast_to(by_heads, (BATCH, HEADS, QUERY, n)).any(1)
        if shape == "batch key" and peer.causal:  # decoders are causal
            seen = np.tril(seen)
        return mask, own_place(peer, seen)

    def given(self, peer, mask):
        """The same mask for each batch element, for calls under vmap."""
        return array(peer, np.broadcast_to(mask, (BATCH, *mask.shape)) if "vmap" in peer.call else mask)

    @pytest.mark.slow
    @each()
    def test_shapes_are_accepted_misread_or_rejected_as_stated(self, peer, rng):
        bench, outcomes = Bench(peer, rng), {}
        for shape in MASK_SHAPES:
            mask, seen = self.draw(peer, rng, shape)
            theirs = self.given(peer, ~mask if peer.true == "hides" else mask)
            try:
                found = bench.reach(peer.call, theirs)
            except Exception:
                outcomes[shape] = "refused"
            else:
                outcomes[shape] = "read" if (found == seen).all() else "misread"
        assert tuple(shape for shape in MASK_SHAPES if outcomes[shape] == "read") == peer.masks
        assert tuple(shape for shape in MASK_SHAPES if outcomes[shape] == "misread") == peer.misread

    @each()
    def test_zero_and_minus_infinity_are_treated_as_stated(self, peer, rng):
        bench = Bench(peer, rng)
        mask, _ = self.draw(peer, rng, peer.masks[0] if peer.masks else "batch heads query key")
        mask[:] = True
        mask[..., 1] = False
        added = self.given(peer, np.where(mask, 0, -np.inf).astype(np.float32))
        if peer.floats == "refused":
            with pytest.raises(Exception, match=r"(?i)bool|type|attribute"):
                bench.reach(peer.call, added)
            return
        shown = np.arange(keys(peer)) != 1
        seen = np.tile(shown if peer.floats == "added" else ~shown, (BATCH, QUERY, 1))
        if peer.causal and is_model(peer):
            seen = np.tril(seen)
        first = int(is_model(peer) and bool(peer.causal))  # in a decoder, the first row is fully masked
        seen, found = own_place(peer, seen), bench.reach(peer.call, added)
        np.testing.assert_array_equal(found[:, first:], seen[:, first:])


class TestEmpty:
    CASES = tuple(
        pytest.param(peer, empty, id=f"{peer.name}, {empty.when}") for peer in PEERS for empty in peer.empty
    )

    @pytest.mark.parametrize(("peer", "empty"), CASES)
    def test_fully_masked_row_gives_the_stated_result(self, peer, empty, rng):
        keep = np.ones((BATCH, QUERY, keys(peer)), bool)
        keep[:, slice(None) if is_model(peer) else 2] = False
        bench = Bench(peer, rng)
        mask = bench.mask(keep)
        output = bench.call(empty.call, mask)[:, 2]
        if empty.result == "NaN":
            assert np.isnan(output).all()
            return
        assert np.isfinite(output).all()
        found = bench.reach(empty.call, mask)[:, 2]
        if empty.result == "zeros":
            own = own_place(peer, np.zeros((QUERY, keys(peer)), bool))[2]
            np.testing.assert_array_equal(found, np.broadcast_to(own, found.shape))
            assert not is_operation(peer) or not output.any()
            return
        assert found.all()
        if is_model(peer):
            call = "eager(inputs_embeds=x, attention_mask=keep[:, 0], output_attentions=True).attentions[0]"
            np.testing.assert_allclose(to_numpy(eval(call, bench.scope)), 1 / QUERY, rtol=1e-6)
        else:  # a mean does not depend on the query
            other = bench.given["x"] + rng.standard_normal(bench.given["x"].shape).astype(np.float32)
            moved = bench.call(empty.call, mask, x=other)[:, 2]
            np.testing.assert_allclose(moved, output, rtol=0, atol=SINGLE * np.abs(output).max())


class TestCausal:
    @having("causal")
    def test_diagonal_ends_in_the_stated_corner(self, peer, rng):
        n = keys(peer)
        found = Bench(peer, rng).reach(peer.causal)
        seen = np.tri(QUERY, n, n - QUERY if peer.corner == "lower right" else 0, dtype=bool)
        np.testing.assert_array_equal(found, np.broadcast_to(seen, found.shape))

    @each([peer for peer in PEERS if is_model(peer) and peer.causal])
    def test_new_tokens_of_a_decoder_attend_to_all_cached_tokens(self, peer, rng):
        bench = Bench(peer, rng)
        bench.fill()
        layer, x = bench.scope["layer"], bench.scope["x"]
        with torch.no_grad():
            whole = layer(inputs_embeds=x).last_hidden_state
            kept = layer(inputs_embeds=x[:, :3], use_cache=True).past_key_values
            rest = layer(inputs_embeds=x[:, 3:], past_key_values=kept).last_hidden_state
        assert (rest - whole[:, 3:]).abs().max() <= SINGLE * whole.abs().max()

    def test_every_causal_call_is_listed(self):
        for peer in PEERS:
            known = {name for found in public(peer.name) for name in all_parameters(found)}
            calls = {"is_causal", "use_causal_mask", "causal"} & known
            assert (
                bool(peer.causal) == bool(calls)
                or peer.name == "torch.nn.MultiheadAttention"
                or is_model(peer)
            )
            assert (peer.corner is None) == (not peer.causal)

    @having("window")
    def test_window_of_three_counts_the_stated_keys(self, peer, rng):
        found = Bench(peer, rng, peer.window_make or None).reach(peer.window)
        n = found.shape[-1]
        back = np.tri(QUERY, n, dtype=bool) & ~np.tri(QUERY, n, -peer.window_keys, dtype=bool)
        ahead = back | back.T if peer.window_ahead else back
        np.testing.assert_array_equal(found, np.broadcast_to(ahead, found.shape))


DROPPED = {
    "torch.nn.MultiheadAttention": ("batch_first=True", "batch_first=True, dropout=0.5", "", ""),
    "flax.nnx.MultiHeadAttention": (
        "decode=False", "decode=False, dropout_rate=0.5, deterministic=False", "", ""
    ),
    "flax.linen.MultiHeadDotProductAttention": (
        "num_heads=heads", "num_heads=heads, dropout_rate=0.5, deterministic=False",
        "mutable=", 'rngs={"dropout": jax.random.key(1)}, mutable=',
    ),
    "keras.layers.MultiHeadAttention": ("head_dim)", "head_dim, dropout=0.5)", "memory,", "memory, training=True,"),
    "keras.layers.GroupQueryAttention": ("kv_heads)", "kv_heads, dropout=0.5)", "memory,", "memory, training=True,"),
    "x_transformers.Attention": ("head_dim)", "head_dim, dropout=0.5)", "", ""),
    "MultiHeadCrossAttention of both mirrors": ("heads)", "heads, dropout=0.5)", "", ""),
}  # fmt: skip


class TestWeights:
    @having("weights")
    def test_weights_have_the_stated_axes_and_dropout(self, peer, rng):
        before, after, call, training = DROPPED.get(peer.name, ("", "", "", ""))
        bench = Bench(peer, rng)
        n = KEY if "memory" in peer.weights else QUERY
        plain = to_numpy(eval(peer.weights, bench.scope))
        assert plain.shape == (*size(peer.weights_axes)[:-1], n)
        np.testing.assert_allclose(plain.sum(-1), 1, rtol=1e-6)

        bench = Bench(peer, rng, peer.make.replace(before, after) if before else None)
        for name in ("layer", "eager"):
            if isinstance(bench.scope.get(name), torch.nn.Module) and peer.arrays == "torch":
                bench.scope[name].train()
        sums = to_numpy(
            eval(peer.weights.replace(call, training) if call else peer.weights, bench.scope)
        ).sum(-1)
        assert (np.abs(sums - 1).max() > 0.1) == peer.dropped


@pytest.mark.slow
@pytest.mark.parametrize("default", DEFAULTS, ids=lambda default: default.name)
def test_defaults(default):
    stated = {name: getattr(default, name) for name in ("torch", "flax", "keras", "equinox", "haiku")}
    assert defaults.MEASURED[default.name](names()) == stated


@pytest.mark.slow
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_trap_is_real_and_its_cure_works(trap, rng):
    for name in trap.names:
        module, _, last = name.rpartition(".")
        assert hasattr(import_module(module), last) or import_module(name)
        assert last in trap.cure
    PROOFS[trap.name](rng)


class TestTheSame:
    @each([peer for peer in PEERS if not is_model(peer)])
    def test_default_call_equals_this_package_with_converted_weights(self, peer, rng):
        bench = Bench(peer, rng)
        x = bench.given["x"]
        if is_operation(peer):
            theirs = bench.call(peer.call)
            query, memory = (torch.from_numpy(bench.given[name]) for name in ("x", "memory"))
            if peer.name.startswith("ops"):
                query, memory = (jnp.asarray(a.numpy()) for a in (query, memory))
                ours = jax_attention.ops.dot_product_attention(query, memory, memory)
            else:
                ours = torch_attention.ops.dot_product_attention(query, memory, memory)
            ours = np.swapaxes(np.asarray(ours), 1, 2).reshape(theirs.shape)
        else:
            theirs = bench.call(peer.call, memory=x)
            hub, _ = convert(bench.tensors, peer.layout_name, "torch_attention")
            bias = "out_proj.bias" in hub
            if "Group" in peer.name:
                ours = torch_attention.GroupedQueryAttention(EMBED, HEADS, num_kv_heads=KV_HEADS, bias=bias)
                ours = transfer(hub, ours)(torch.from_numpy(x)).output.detach().numpy()
            else:  # the JAX mirror, because the PyTorch mirror is a peer
                ours = jax_attention.MultiHeadCrossAttention(
                    EMBED, EMBED, EMBED, HEADS, bias=bias, rngs=nnx.Rngs(0)
                )
                ours = np.asarray(transfer(hub, ours)(jnp.asarray(x), jnp.asarray(x)).output)
        assert np.abs(ours - theirs).max() <= SINGLE * np.abs(theirs).max()

    def test_another_scale_is_detected(self, rng):
        query, memory = (torch.from_numpy(rng.standard_normal((BATCH, HEADS, n, 4))) for n in (QUERY, KEY))
        plain, other = (
            torch_attention.ops.dot_product_attention(query, memory, memory, scale=s) for s in (None, 0.4)
        )
        assert (plain - other).abs().max() > 100 * SINGLE * plain.abs().max()


def test_required_arguments_raise_when_missing():
    for missing in ("decode=False, ", "w_init=hk.initializers.VarianceScaling()"):
        [peer] = [peer for peer in PEERS if missing in peer.make]
        with pytest.raises(ValueError, match=r"(?i)decode|initializer"):
            Bench(peer, np.random.default_rng(0), peer.make.replace(missing, "")).call(peer.call)


@each([peer for peer in PEERS if peer.masks])
def test_wrong_facts_are_detected(peer, rng):
    wrong = {
        "true": {"shows": "hides", "hides": "shows"}[peer.true],
        "floats": {"added": "inverted", "inverted": "added", "refused": "added"}[peer.floats],
        "masks": peer.masks[1:],
    }
    for name, value in wrong.items():
        shapes = TestShapes()
        run = (
            shapes.test_zero_and_minus_infinity_are_treated_as_stated
            if name == "floats"
            else shapes.test_shapes_are_accepted_misread_or_rejected_as_stated
        )
        with pytest.raises(Exception):  # noqa: B017  (frameworks raise different exceptions)
            run(replace(peer, **{name: value}), rng)
    for each_empty in peer.empty:
        result = "mean" if each_empty.result == "zeros" else "zeros"
        with pytest.raises(AssertionError):
            TestEmpty().test_fully_masked_row_gives_the_stated_result(
                peer, replace(each_empty, result=result), rng
            )
