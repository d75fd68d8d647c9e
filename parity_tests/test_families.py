"""Families of checkpoints: saved by transformers, read into both mirrors, the same logits; and back, bit for bit."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attention_bridge.families import read_config
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from attention_bridge.weights import convert, stream
from attention_bridge.weights.leaves import Spec
from parity_tests import families
from parity_tests.families import CASES, SHORT

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}


def some(names):
    """The cases by name; those that are not in the short run are slow."""
    return [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each model with its directory, made once."""
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


@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("name", some(CASES))
def test_a_checkpoint_gives_what_transformers_computes(saved, name, framework):
    directory, expected, bound = saved(name)
    model = load_pretrained(directory, framework)
    found = families.ours(CASES[name], model, ARRAYS[framework])
    for part, reference in expected.items():
        assert error(found[part], reference) <= bound, part


@pytest.mark.parametrize("name", some(CASES))
def test_a_model_is_saved_as_it_was_read_byte_for_byte(saved, name, tmp_path):
    directory, _, _ = saved(name)
    model = load_pretrained(directory, "torch")
    save_pretrained(model, tmp_path, config=directory)
    given, back = (load_file(path / "model.safetensors") for path in (directory, tmp_path))
    layout = read_pretrained(directory).reading.layout
    given = {layout.canonical(key): x for key, x in given.items()}
    kept = {key: x for key, x in given.items() if key in back}
    assert all(kept[key].tobytes() == back[key].tobytes() for key in back)
    left = given.keys() - back.keys()
    assert all(key.startswith(("lm_head", "cls.", "final_logits_bias")) for key in left), left


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
    assert read_config(reading_fields(directory), given).layout == reading.layout


def bits(tensors):
    return {name: (x.shape, x.dtype, x.tobytes()) for name, x in tensors.items()}


def reading_fields(directory):
    return json.loads((directory / "config.json").read_text())
