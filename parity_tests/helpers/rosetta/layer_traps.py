"""Mistakes with layers, weights and defaults: each function makes the mistake, detects it, and applies the fix."""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.doctor import Setting, diagnose
from attention_bridge.optimizers import optimizer_like
from attention_bridge.parity.comparison import assert_parity
from attention_bridge.pretrained.load import load_pretrained
from attention_bridge.weights import convert, transfer
from parity_tests.helpers.rosetta.calls import BATCH, EMBED, HEAD_DIM, HEADS, KEY, QUERY, names
from parity_tests.helpers.rosetta.proofs import Rng, differs, our_layer, sequences, torch_layer


def order(rng: Rng) -> None:
    q, k, v = sequences(rng, QUERY, KEY, KEY)
    layer = names()["keras"].layers.MultiHeadAttention(HEADS, HEAD_DIM)
    cured = layer(query=q, key=k, value=v)
    assert differs(layer(q, k, v), cured)
    assert not differs(layer(q, v, k), cured)


def batch_first(rng: Rng) -> None:
    [x] = sequences(rng, QUERY)
    other = x.clone()
    other[1] += 1  # another batch element
    default = torch_layer(batch_first=False)
    assert torch.nn.MultiheadAttention(EMBED, HEADS).batch_first is False
    for layer, crosses in ((default, True), (torch_layer(), False)):
        one, moved = (layer(e, e, e)[0][0] for e in (x, other))
        assert differs(one, moved) == crosses
    swapped = x.transpose(0, 1)
    assert not differs(default(swapped, swapped, swapped)[0].transpose(0, 1), torch_layer()(x, x, x)[0])


def transposed(rng: Rng) -> None:
    [x] = sequences(rng, QUERY)
    theirs = torch_layer()
    expected = theirs(x, x, x)[0]
    right = convert(
        {k: p.detach().numpy() for k, p in theirs.named_parameters()}, "torch.mha", "jax_attention"
    )[0]
    wrong = {name: a.T if a.ndim == 2 else a for name, a in right.items()}  # the shapes still match
    for weights, fails in ((wrong, True), (right, False)):
        ours = jax_attention.MultiHeadSelfAttention(EMBED, HEADS, rngs=nnx.Rngs(0))
        transfer(weights, ours, source_layout="jax_attention")
        assert differs(ours(jnp.asarray(x.numpy())).output, expected) == fails
    ours = transfer(theirs, jax_attention.MultiHeadSelfAttention(EMBED, HEADS, rngs=nnx.Rngs(0)))
    assert not differs(ours(jnp.asarray(x.numpy())).output, expected)


def fused(rng: Rng) -> None:
    kernel = rng.standard_normal((EMBED, 3 * EMBED)).astype(np.float32)
    found, _ = convert({"h.0.attn.c_attn.weight": kernel}, "hf.gpt2", "jax_attention")
    prefix = "layers.0.attention"
    for n, name in enumerate("qkv"):
        expected = kernel[:, n * EMBED : (n + 1) * EMBED]
        np.testing.assert_array_equal(found[f"{prefix}.{name}_proj.kernel"], expected)
    as_bert = kernel.T.reshape(3, EMBED, EMBED)[0]  # (out, in), as BERT has it
    assert differs(found[f"{prefix}.q_proj.kernel"], as_bert)


def empty_rows(rng: Rng) -> None:
    x, memory = sequences(rng, QUERY, KEY)
    theirs, hidden = torch_layer(), torch.zeros(BATCH, KEY, dtype=torch.bool)
    hidden[0] = True
    theirs(x, memory, memory, key_padding_mask=hidden)[0][1].sum().backward()  # the unmasked element alone
    assert theirs.in_proj_weight.grad.isnan().any()
    ours, mask = our_layer(theirs), ~hidden[:, None, None]
    output = ours(x, memory, mask).output
    output.sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())
    assert torch.equal(output[0], ours.out_proj.bias.expand(QUERY, EMBED))
    in_jax = jax_attention.MultiHeadCrossAttention(EMBED, EMBED, EMBED, HEADS, rngs=nnx.Rngs(0))
    transfer(theirs, in_jax)
    arrays = (jnp.asarray(a.numpy()) for a in (x, memory, mask))
    assert not differs(in_jax(*arrays).output, output)


def fast_path(rng: Rng) -> None:
    [x] = sequences(rng, QUERY)
    layer = torch.nn.MultiheadAttention(EMBED, 2, batch_first=True)
    hidden = torch.ones(BATCH, QUERY, dtype=torch.bool)

    def output() -> torch.Tensor:
        return layer(x, x, x, key_padding_mask=hidden, need_weights=False)[0]

    expected = output()
    assert torch.equal(expected, layer.out_proj.bias.expand_as(x))
    layer.eval()
    with torch.no_grad():
        assert output().isnan().all()
        before = torch.backends.mha.get_fastpath_enabled()
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            assert torch.equal(output(), expected)
        finally:
            torch.backends.mha.set_fastpath_enabled(before)


def mean_weights(rng: Rng) -> None:
    x, memory = sequences(rng, QUERY, KEY)
    layer = torch_layer()
    mean, apart = (layer(x, memory, memory, average_attn_weights=a)[1] for a in (True, False))
    assert mean.shape == (BATCH, QUERY, KEY)
    assert not differs(apart.mean(1), mean)
    assert not differs(our_layer(layer)(x, memory).weights, apart)


def shared_dropout(rng: Rng) -> None:
    """With the same inputs in all batch elements and heads, outputs differ only if the dropout masks differ."""
    one = [jnp.asarray(rng.standard_normal((1, n, 1, HEAD_DIM)), jnp.float32) for n in (QUERY, KEY, KEY)]
    query, key, value = (jnp.tile(x, (BATCH, 1, HEADS, 1)) for x in one)
    for shared in (True, False):
        found = nnx.dot_product_attention(
            query, key, value, broadcast_dropout=shared, dropout_rate=0.5, dropout_rng=jax.random.key(0)
        )
        assert differs(found, jnp.broadcast_to(found[:1, :, :1], found.shape)) != shared
    assert nnx.MultiHeadAttention(HEADS, EMBED, decode=False, rngs=nnx.Rngs(0)).broadcast_dropout


def config(rng: Rng) -> None:
    transformers = pytest.importorskip("transformers")
    fields = names()["bert_config"].to_dict() | {"hidden_act": "gelu_new", "layer_norm_eps": 0.1}
    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(**fields)).eval()
    tokens = rng.integers(0, 9, (BATCH, QUERY))
    expected = theirs(torch.from_numpy(tokens)).last_hidden_state
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        ours = load_pretrained(directory, "jax")
    assert not differs(ours(jnp.asarray(tokens)).output, expected)
    plain = names()["BertModel"](names()["bert_config"]).eval()
    plain.load_state_dict(theirs.state_dict())
    assert differs(plain(torch.from_numpy(tokens)).last_hidden_state, expected)


def decay(rng: Rng) -> None:
    """With a gradient of zero, only weight decay changes a weight."""
    start = rng.standard_normal(5).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    shrunk = []
    for theirs in (optax.adamw(1.0), optimizer_like(optimizer)):
        params = {"weight": jnp.asarray(start)}
        updates, _ = theirs.update({"weight": jnp.zeros(5)}, theirs.init(params), params)
        shrunk.append(np.asarray(updates["weight"]))
    weight.grad = torch.zeros(5)
    optimizer.step()
    step = weight.detach().numpy() - start
    np.testing.assert_allclose(100 * shrunk[0], step, rtol=1e-4)
    np.testing.assert_allclose(shrunk[1], step, rtol=1e-4)


def unseen(rng: Rng) -> None:
    theirs = torch_attention.MultiHeadSelfAttention(EMBED, HEADS)
    ours = jax_attention.MultiHeadSelfAttention(EMBED, HEADS, rngs=nnx.Rngs(0))
    transfer(theirs, ours)
    x = rng.standard_normal((BATCH, QUERY, EMBED)).astype(np.float32)
    assert_parity(theirs, ours, x)
    ours.k_proj.kernel[...] = ours.k_proj.kernel[...].T
    with pytest.raises(AssertionError, match="k_proj"):
        assert_parity(theirs, ours, x)


def unexplained(rng: Rng) -> None:
    theirs = torch_attention.MultiHeadSelfAttention(EMBED, HEADS)
    weights = {name: x.detach().numpy().copy() for name, x in theirs.state_dict().items()}
    [x] = sequences(rng, QUERY)
    expected = theirs(x).output.detach().numpy()
    with torch.no_grad():
        theirs.v_proj.weight.copy_(theirs.v_proj.weight.T.clone())
    found = theirs(x).output.detach().numpy()
    said = diagnose(expected, found, x=x.numpy(), weights=weights, setting=Setting(num_heads=HEADS)).verdict
    assert "v_proj without transposing it" in said
