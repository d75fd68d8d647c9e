"""Traps of masks: the mistake is made and seen, then the cure is applied."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import torch_attention
from attention_bridge import masks
from attention_bridge.masks import Restriction
from parity_tests.helpers.rosetta.calls import BATCH, EMBED, HEAD_DIM, HEADS, KEY, QUERY, names
from parity_tests.helpers.rosetta.proofs import (
    Rng,
    differs,
    heads_of,
    our_layer,
    seeing,
    sequences,
    torch_layer,
)


def mirror(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, r: Restriction) -> torch.Tensor:
    """Ours, with the restriction that a cure makes."""
    words = {
        k: torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x for k, x in r._asdict().items()
    }
    return torch_attention.ops.dot_product_attention(query, key, value, **words)


def polarity(rng: Rng) -> None:
    x, memory = sequences(rng, QUERY, KEY)
    theirs, attn_mask = torch_layer(), ~seeing(rng, QUERY, KEY)
    ours = our_layer(theirs)
    expected = theirs(x, memory, memory, attn_mask=torch.from_numpy(attn_mask))[0]
    assert differs(ours(x, memory, torch.from_numpy(attn_mask)).output, expected)
    mask = masks.from_torch_mha(attn_mask, num_heads=HEADS).mask
    assert not differs(ours(x, memory, torch.from_numpy(mask)).output, expected)


def inverted(rng: Rng) -> None:
    x, memory = (jnp.asarray(each.numpy()) for each in sequences(rng, QUERY, KEY))
    layer = nnx.MultiHeadAttention(HEADS, EMBED, decode=False, rngs=nnx.Rngs(0))
    keep = seeing(rng, BATCH, 1, QUERY, KEY)
    added = np.where(keep, 0, -np.inf).astype(np.float32)
    expected = layer(x, memory, memory, mask=jnp.asarray(keep))
    assert differs(layer(x, memory, memory, mask=jnp.asarray(added)), expected)
    cured = masks.to_flax(masks.from_transformers(added), query_len=QUERY, key_len=KEY)
    assert not differs(layer(x, memory, memory, mask=jnp.asarray(cured["mask"])), expected)


def added_ones(rng: Rng) -> None:
    x, memory = sequences(rng, QUERY, KEY)
    layer, attention_mask = torch_layer(), torch.from_numpy(seeing(rng, BATCH, KEY)).long()
    attention_mask[:, -1] = 0
    other = memory.clone()
    other[:, -1] += 1
    wrong, moved = (layer(x, m, m, key_padding_mask=attention_mask.float())[0] for m in (memory, other))
    assert differs(wrong, moved)
    cured, unmoved = (layer(x, m, m, key_padding_mask=attention_mask == 0)[0] for m in (memory, other))
    assert torch.equal(cured, unmoved)


def bert(implementation: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = copy.deepcopy(names()["bert_config"])  # the implementation is written into it
    model = names()["BertModel"](config).eval()
    model.set_attn_implementation(implementation)
    return model


def eager_boolean(rng: Rng) -> None:
    [x] = sequences(rng, QUERY)
    keep = seeing(rng, BATCH, 1, QUERY, QUERY)
    expected = bert("sdpa")(inputs_embeds=x, attention_mask=torch.from_numpy(keep)).last_hidden_state
    eager = bert("eager")
    assert differs(eager(inputs_embeds=x, attention_mask=torch.from_numpy(keep)).last_hidden_state, expected)
    cured = masks.to_transformers(Restriction(keep), query_len=QUERY, key_len=QUERY)["attention_mask"]
    cured = torch.from_numpy(cured)
    assert not differs(eager(inputs_embeds=x, attention_mask=cured).last_hidden_state, expected)


def causal_replaced(rng: Rng) -> None:
    [x] = sequences(rng, QUERY)
    later = x.clone()
    later[:, -1] = sequences(rng, 1)[0][:, 0]
    for name in ("GPT2Model", "LlamaModel"):
        torch.manual_seed(0)
        model = names()[name](names()[f"{name[:-5].lower()}_config"]).eval()
        keep = np.ones((BATCH, 1, 1, QUERY), bool)
        for restriction, sees_the_future in (
            (Restriction(keep), True),
            (Restriction(keep, is_causal=True), False),
        ):
            mask = masks.to_transformers(restriction, query_len=QUERY, key_len=QUERY)["attention_mask"]
            mask = torch.from_numpy(np.broadcast_to(mask, (BATCH, 1, QUERY, QUERY)).copy())
            one, other = (
                model(inputs_embeds=e, attention_mask=mask).last_hidden_state[:, :-1] for e in (x, later)
            )
            assert torch.equal(one, other) != sees_the_future


def three_axes(rng: Rng) -> None:
    query, key, value = (
        torch.from_numpy(rng.standard_normal((3, 3, n, HEAD_DIM))) for n in (QUERY, KEY, KEY)
    )
    mask = seeing(rng, 3, QUERY, KEY)  # one of three samples, with three heads
    expected = mirror(query, key, value, Restriction(mask))
    wrong = F.scaled_dot_product_attention(query, key, value, attn_mask=torch.from_numpy(mask))
    assert differs(wrong, expected)
    cured = masks.to_torch_sdpa(Restriction(mask), query_len=QUERY, key_len=KEY)["attn_mask"]
    cured = F.scaled_dot_product_attention(query, key, value, attn_mask=torch.from_numpy(cured))
    assert not differs(cured, expected)


def corner(rng: Rng) -> None:
    query, key, value = heads_of(rng, KEY, KEY, KEY)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)[:, :, -1:]
    wrong = F.scaled_dot_product_attention(query[:, :, -1:], key, value, is_causal=True)
    torch.testing.assert_close(wrong, value[:, :, :1])
    assert not differs(mirror(query[:, :, -1:], key, value, masks.lower_right(1, KEY)), expected)


def hint(rng: Rng) -> None:
    x, memory = sequences(rng, QUERY, QUERY)
    layer = torch_layer()
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        layer(x, memory, memory, is_causal=True)
    broken = torch.zeros(QUERY, QUERY, dtype=torch.bool)
    one, other = (
        layer(x, memory, memory, attn_mask=broken, is_causal=True, need_weights=w)[0] for w in (True, False)
    )
    assert differs(one, other)
    attn_mask = masks.to_torch_mha(Restriction(is_causal=True), shape=(BATCH, HEADS, QUERY, QUERY))[
        "attn_mask"
    ]
    expected = our_layer(layer)(x, memory, torch_attention.causal_mask(QUERY)).output
    for w in (True, False):
        cured = layer(x, memory, memory, attn_mask=torch.from_numpy(attn_mask), need_weights=w)[0]
        assert not differs(cured, expected)


def window(rng: Rng) -> None:
    query, key, value = heads_of(rng, QUERY, KEY, KEY)
    restriction = Restriction(is_causal=True, window=2)
    expected = mirror(query, key, value, restriction).transpose(1, 2)
    theirs = [jnp.swapaxes(jnp.asarray(each.numpy()), 1, 2) for each in (query, key, value)]
    assert differs(jax.nn.dot_product_attention(*theirs, local_window_size=(2, 0)), expected)
    cured = masks.to_jax_nn(restriction, query_len=QUERY, key_len=KEY)
    assert not differs(jax.nn.dot_product_attention(*theirs, **cured), expected)


def window_ahead(rng: Rng) -> None:
    keras = names()["keras"]
    [x] = sequences(rng, QUERY)
    later = x.clone()
    later[:, 3] += 1
    layer = keras.layers.MultiHeadAttention(HEADS, HEAD_DIM, sliding_window=2)
    for causal in (False, True):
        one, other = (layer(e, e, use_causal_mask=causal)[:, 2] for e in (x, later))
        assert torch.equal(one, other) == causal
