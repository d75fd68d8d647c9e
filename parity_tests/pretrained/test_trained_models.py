"""Trained models of several families: outputs, hidden states and attention maps of transformers, and the same bytes.

Trained weights are larger in a few places and correlated, unlike random ones. `fixtures/make_trained.py` makes them.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge.pretrained import load_pretrained, save_pretrained
from parity_tests.fixtures.make_trained import FAMILIES, FIRST, PLACE
from parity_tests.helpers import families, heads
from parity_tests.helpers.families import CASES

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
QUICK = (("llama", "torch"), ("t5", "torch"), ("gpt2", "torch"))
each_model = pytest.mark.parametrize(
    ("name", "framework"),
    [
        pytest.param(name, framework, marks=() if (name, framework) in QUICK else pytest.mark.slow)
        for name in FAMILIES
        for framework in ARRAYS
    ],
)


def inputs(name):
    """Sequences with a period of 3, or images with a bright half."""
    rng = np.random.default_rng(5)
    if CASES[name].kind == "image":
        image = rng.normal(size=(2, 8, 12, 3))
        image[0, :, :6] += 2.0
        return image.astype(np.float32)
    return np.tile(rng.integers(FIRST, families.VOCAB, (2, 3)), 3).astype(np.int32)


def reference(name):
    """The float64 outputs, hidden states and attention maps of transformers, by name, and the bound of float32."""
    kind = CASES[name].kind
    model = CASES[name].model.from_pretrained(PLACE / name, attn_implementation="eager").eval()
    bound = families.bound(model)
    given = torch.from_numpy(inputs(name))
    options = {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        if kind == "image":
            found = model.double()(given.permute(0, 3, 1, 2).double(), **options)
        elif kind == "sequence":
            given = given.long()
            found = model.double()(
                input_ids=given, decoder_input_ids=given[:, :5], use_cache=False, **options
            )
        else:
            found = model.double()(given.long(), use_cache=False, **options)
    if kind == "sequence":
        maps = {
            "encoder": found.encoder_attentions,
            "self": found.decoder_attentions,
            "cross": found.cross_attentions,
        }
        states = ()
    else:
        maps, states = {"map": found.attentions}, found.hidden_states[:-1]  # of the last one it has the norm
    results = {"logits": found.logits, **{f"state {n}": x for n, x in enumerate(states)}}
    results |= {f"{part} {n}": x for part, each in maps.items() for n, x in enumerate(each)}
    return {key: x.numpy() for key, x in results.items()}, bound


def ours(name, model, array):
    """The same outputs of a mirror's model."""
    kind, given = CASES[name].kind, array(inputs(name))
    options = {"need_weights": True}
    if kind == "sequence":
        found = model(given, array(inputs(name)[:, :5].copy()), **options)
        maps = {"encoder": found.encoder_weights, "self": found.self_weights, "cross": found.cross_weights}
        states, logits = (), found.logits
    else:
        found = model(given, **options, need_hidden_states=True)
        maps, states = {"map": found.attentions}, found.hidden_states[:-1]
        logits = found.pooled if kind == "image" else found.logits
    results = {"logits": logits, **{f"state {n}": x for n, x in enumerate(states)}}
    return families.numpy_of(
        results | {f"{part} {n}": x for part, each in maps.items() for n, x in enumerate(each)}
    )


@each_model
def test_trained_model_gives_all_states_and_maps_of_transformers(name, framework):
    expected, bound = reference(name)
    found = ours(name, load_pretrained(PLACE / name, framework), ARRAYS[framework])
    assert found.keys() == expected.keys()
    assert len(found) >= 5
    for part, x in expected.items():
        assert np.abs(found[part] - x).max() <= bound * np.abs(x).max(), part


@each_model
def test_trained_model_is_saved_byte_for_byte(name, framework, tmp_path):
    save_pretrained(load_pretrained(PLACE / name, framework), tmp_path)
    assert heads.hashes(tmp_path) == heads.hashes(PLACE / name)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_trained_model_continues_a_pattern(name):
    """The weights are trained: the next token of a repeated pattern mostly has the largest logit, not 1 time in 28."""
    tokens = inputs(name)
    logits = ours(name, load_pretrained(PLACE / name, "torch"), torch.from_numpy)["logits"]
    if name == "llama":
        right = logits[:, 5:-1].argmax(-1) == tokens[:, 6:]
    else:
        right = logits[:, :-1].argmax(-1) == tokens[:, 1:5]
    assert right.mean() > 0.6
