"""Tables of layers: exact text, every argument shown, and the commands that print them."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import jax_attention.models
import torch_attention.models
from attention_bridge import checkpoints
from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.cli import app
from attention_bridge.cli.weight_tables import SHOWN
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.own import read_own
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.pretrained.layer_table import LAYER, MODEL, layer_table
from parity_tests.helpers import families
from parity_tests.helpers.hybrids import HYBRIDS, delta_layer, gated_layer, latent_layer, window_layer

LLAMA = {
    "model_type": "llama",
    "vocab_size": 31,
    "hidden_size": 20,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 500.0,
}
LLAMA_TABLE = """\
embedding: vocab_size=31, embed_dim=20, max_len=None, embedding_norm=None, embed_scale=1.0, tied=False
layers  mixer                  heads  head_dim  position                    feed-forward    \
  ffn_dim  arrangement  norm
0-2     GroupedQueryAttention  4/2    6         RotaryEmbedding base=500.0  GatedFeedForward\
  24       pre          rms_norm
mixer of all layers: bias=False
position of all layers: head_dim=6
feed-forward of all layers: activation=silu, bias=False
norm of all layers: eps=1e-06, unit_offset=False
final norm: rms_norm(eps=1e-06, unit_offset=False)
head: a matrix of its own, logit_softcap=None
special tokens: eos=(2), bos=1"""


def configuration(name):
    case = families.CASES[name]
    return json.loads(json.dumps(case.config(**case.fields).to_dict(), default=str))


def described(name):
    return read_config(configuration(name)).model.arguments["config"]


DESCRIPTIONS = {
    **{name: described(name) for name in families.CASES},
    **{hybrid.name: hybrid.module.arguments["config"] for hybrid in HYBRIDS},
}
each_description = pytest.mark.parametrize("name", DESCRIPTIONS)


def leaves(part):
    """Every argument of a part and of its nested parts that is not itself a part."""
    for name, value in part.arguments.items():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Part):
                yield from leaves(each)
            else:
                yield name, each


def changed(value):
    """Copies of a part, each with one leaf replaced by a value that occurs nowhere else."""
    if isinstance(value, Part):
        for name, each in value.arguments.items():
            for other in changed(each):
                yield Part(value.name, {**value.arguments, name: other})
    elif isinstance(value, tuple) and any(isinstance(each, Part) for each in value):
        for n, each in enumerate(value):
            for other in changed(each):
                yield (*value[:n], other, *value[n + 1 :])
    else:
        yield "CHANGED"


def hidden(description, table=layer_table):
    """The changes of a description that its table does not show."""
    return [each for each in changed(description) if "CHANGED" not in table(each)]


def test_table_of_a_llama_is_exact():
    assert layer_table(read_config(LLAMA).model.arguments["config"]) == LLAMA_TABLE


def test_runs_of_equal_layers_are_one_row():
    spec = Part("ModelSpec", {"vocab_size": 7, "embed_dim": 12, "layers": (*[delta_layer] * 3, gated_layer)})
    header, *rows = layer_table(spec).split("\n")[1:4]
    assert header.split()[:3] == ["layers", "mixer", "heads"]
    assert [row.split()[:3] for row in rows] == [
        ["0-2", "GatedDeltaNet", "2"],
        ["3", "GatedAttention", "4/2"],
    ]


def test_alternating_windows_have_a_column():
    for name, windows in (("gemma2", ["4", "-"]), ("gemma3", ["3", "-"])):
        header, *rows = layer_table(DESCRIPTIONS[name]).split("\n")[1:4]
        assert [row[header.index("window") :].split()[0] for row in rows] == windows
    assert "window" not in layer_table(DESCRIPTIONS["llama"])


def test_experts_have_a_column():
    header, dense, sparse = layer_table(DESCRIPTIONS["deepseek_v3"]).split("\n")[1:4]
    column = header.index("experts")
    assert (dense[column:].split()[0], sparse[column:].split()[0]) == ("-", "6")


def test_learned_positions_are_shown():
    spec = {"vocab_size": 7, "embed_dim": 12, "layers": (window_layer, latent_layer)}
    for learned in (False, True):
        text = layer_table(Part("ModelSpec", {**spec, **({"max_len": 9} if learned else {})}))
        assert ("learned" in text) == learned
        assert ("max_len=9" in text) == learned
        assert "RotaryEmbedding" in text


def test_other_models_have_a_table_of_their_fields():
    lines = layer_table(DESCRIPTIONS["bart"]).split("\n")
    assert lines[0].split() == ["field", "value"]
    assert ["encoder.num_heads", "3"] in [line.split() for line in lines]
    assert ["num_heads", "3"] in [line.split() for line in layer_table(DESCRIPTIONS["bert"]).split("\n")]


@each_description
def test_every_argument_of_every_part_is_shown(name):
    description = DESCRIPTIONS[name]
    assert hidden(description) == []
    text = layer_table(description)
    for argument, value in leaves(description):
        assert str(value) in text, (argument, value)


def test_unknown_arguments_are_shown():
    """An unknown field of a model, of a layer and of each part."""
    mixer = Part(
        "SelfAttention", {"num_heads": 3, "new_one": 101, "position": Part("ALiBi", {"new_two": 102})}
    )
    layer = {"mixer": mixer, "ffn": Part("FeedForward", {"new_three": 103}), "new_four": 104}
    spec = {"vocab_size": 7, "embed_dim": 12, "layers": (Part("LayerSpec", layer),), "new_five": 105}
    text = layer_table(Part("ModelSpec", spec))
    for n, name in enumerate(("one", "two", "three", "four", "five")):
        assert f"new_{name}={101 + n}" in text


@pytest.mark.parametrize("line", [0, *range(2, len(LLAMA_TABLE.split("\n")))])  # line 1 is the header
def test_table_with_a_missing_line_is_detected(line):
    def without(description):
        lines = layer_table(description).split("\n")
        return "\n".join([*lines[:line], *lines[line + 1 :]])

    assert hidden(read_config(LLAMA).model.arguments["config"], without)


def test_long_sequences_and_runs_say_how_much_is_left_out():
    numbers = Part("RotaryEmbedding", {"frequencies": tuple(float(n) for n in range(20))})
    windows = [Part("LayerSpec", {"mixer": Part("SlidingWindowAttention", {"window": n})}) for n in range(9)]
    rotary = Part("LayerSpec", {"mixer": Part("SelfAttention", {"position": numbers})})
    spec = Part("ModelSpec", {"vocab_size": 7, "embed_dim": 12, "layers": (rotary, *windows)})
    assert "frequencies=(0.0, 1.0, 2.0, 17 more)" in layer_table(spec)
    assert "... and 7 more runs of equal layers" in layer_table(spec, most=3)
    assert len(layer_table(spec).split("\n")) == len(layer_table(spec, most=3).split("\n")) + 6
    alternate = (*windows[:2],) * 100
    text = layer_table(Part("ModelSpec", {"vocab_size": 7, "embed_dim": 12, "layers": alternate}), most=SHOWN)
    assert all(len(line) < 300 for line in text.split("\n"))


@pytest.mark.parametrize("models", [torch_attention.models, jax_attention.models], ids=["torch", "jax"])
def test_description_of_a_mirror_has_the_same_table(models):
    for fields, kind in ((MODEL, models.ModelSpec), (LAYER, models.LayerSpec)):
        for field in dataclasses.fields(kind):
            if field.default is not dataclasses.MISSING:
                assert fields[field.name] == field.default
    assert {field.name for field in dataclasses.fields(models.ModelSpec)} == MODEL.keys() | {"layers"}
    assert {field.name for field in dataclasses.fields(models.LayerSpec)} == LAYER.keys()
    bare = models.ModelSpec(7, 12, (models.LayerSpec(models.Part("SelfAttention", {"num_heads": 3})),))
    part = Part("LayerSpec", {"mixer": Part("SelfAttention", {"num_heads": 3})})
    assert layer_table(bare) == layer_table(
        Part("ModelSpec", {"vocab_size": 7, "embed_dim": 12, "layers": (part,)})
    )
    for description in DESCRIPTIONS.values():
        if description.name == "ModelSpec":
            assert layer_table(build(description, models.__name__.partition(".")[0], {})) == layer_table(
                description
            )


def test_table_in_the_readme_matches_its_model():
    page = (Path(__file__).parents[2] / "README.md").read_text()
    [snippet] = [
        text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "tm.ModelSpec(" in text
    ]
    known = {}
    exec(snippet.partition("\nmodel = ")[0], known)
    assert f"```text\n{layer_table(known['spec'])}\n```" in page


def inspected(directory, given, *options):
    """The output of `inspect` for a checkpoint with this configuration."""
    checkpoints.write(
        directory / "model.safetensors", {f"t{n}": np.zeros((40, 40), np.float32) for n in range(4)}
    )
    (directory / "config.json").write_text(json.dumps(given))
    done = CliRunner().invoke(app, ["inspect", str(directory), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_command_prints_the_table_before_the_tensors(tmp_path):
    before, middle, after = inspected(tmp_path, LLAMA).split("\n\n")
    assert "model: LanguageModel; config.json is understood" in before
    assert middle == LLAMA_TABLE
    assert after.split()[:3] == ["tensor", "shape", "dtype"]


def test_command_prints_sizes_of_other_models_and_no_table_for_unknown_ones(tmp_path):
    bert = configuration("bert")
    assert inspected(tmp_path, bert).split("\n\n")[1] == layer_table(described("bert"))
    assert "\n\n" not in inspected(tmp_path, {**bert, "model_type": "unknown"})


@pytest.mark.parametrize("name", ["gemma3", "deepseek_v3", "bert", "clip"])
def test_command_prints_json_that_reads_back_as_the_same_description(name, tmp_path):
    found = json.loads(inspected(tmp_path, configuration(name), "--json"))
    part = described(name)
    fields = Fields({"model": found["model"], "config": found["description"]})
    assert read_own(fields, Tensors(())).model.arguments["config"] == part
    if part.name == "ModelSpec":
        spec = torch_attention.models.ModelSpec.from_dict(found["description"])
        assert spec == build(part, "torch_attention", {})


def test_json_of_an_unknown_configuration_has_no_description(tmp_path):
    given = {**LLAMA, "model_type": "unknown"}
    assert json.loads(inspected(tmp_path, given, "--json"))["description"] is None
