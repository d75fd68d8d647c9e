"""Any configuration gives a model or a one-line error: every field of every family, with invalid values."""

from __future__ import annotations

import copy
import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_bridge.catalogue.part import build
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.families import declarations, read_config
from attention_bridge.pretrained.families.fields import GENERATION
from parity_tests.helpers import families, fuzz_samples
from parity_tests.helpers.share import share

NOT_FINITE = (math.nan, math.inf, -math.inf, 10**400)
BAD = (
    None, True, False, 0, -1, -3, 1, 3, 2.5, 1e-300, 1e300, *NOT_FINITE, 2**40, 10**9, "", "x", "x" * 5000, [],
    [1], [[None]] * 50, {}, {"x": 1}, {"rope_type": []}, {"rope_type": "yarn"}, {"a": {"b": [None] * 99}},
)  # fmt: skip
NEVER = (True, False, 0, -1, *NOT_FINITE, "x", [], [1], {}, {"x": 1})  # for any number that must be positive
POSITIVE = {
    "rope_theta", "sliding_window", "factor", "low_freq_factor", "high_freq_factor", "rotary_pct",
    "original_max_position_embeddings", "attn_logit_softcapping", "final_logit_softcapping", "rms_norm_eps",
    "layer_norm_eps", "layer_norm_epsilon", "hidden_size", "vocab_size", "num_hidden_layers", "head_dim",
    "num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar", "routed_scaling_factor", "image_size",
    "rope_local_base_freq", "partial_rotary_factor", "attention_factor", "beta_fast", "beta_slow", "d_model",
    "patch_size", "q_lora_rank", "kv_lora_rank",
}  # fmt: skip


def configuration(name):
    case = families.CASES[name]
    return json.loads(json.dumps(case.config(**case.fields).to_dict(), default=str))


def places(value, path=()):
    """The path of every field, nested fields included."""
    for name, below in value.items():
        yield (*path, name)
        if isinstance(below, dict) and name not in ("id2label", "label2id"):
            yield from places(below, (*path, name))


def mutant(given, path, value):
    changed = copy.deepcopy(given)
    below = changed
    for name in path[:-1]:
        below = below[name]
    below[path[-1]] = value
    return changed


def refusal(given):
    """The one-line error for a configuration, or None; any exception except CheckpointError propagates."""
    message = None
    try:
        read_config(given, ["classifier.weight"], source="/somewhere/" + "deep/" * 20 + "config.json")
    except CheckpointError as error:
        message = str(error)
    assert message is None or (message.isprintable() and len(message) <= 300)
    return message


# The commit chooses the cases of the quick tests, because all together take minutes.
CHOSEN = {*families.SHORT, *share(families.CASES, 4)}
each_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=families.marks(name, CHOSEN)) for name in families.CASES]
)


@each_case
def test_any_value_of_any_field_gives_a_model_or_one_line(name):
    given = configuration(name)
    assert refusal(given) is None
    for path in places(given):
        for value in BAD:
            refusal(mutant(given, path, value))
        for value in NEVER if path[-1] in POSITIVE and is_read(given, path) else ():
            listed = path[-1] in ("image_size", "patch_size") and value == [1]
            assert listed or refusal(mutant(given, path, value)), (path, value)


# Fields of positive numbers that the reference ignores: its text model does not read the parts for images.
UNREAD = {
    "beit": {"vocab_size"},
    "biogpt": {"layer_norm_eps"},
    "gemma3_text": {"attn_logit_softcapping"},
    "gpt_bigcode": {"num_key_value_heads"},
    "hubert": {"vocab_size"},
    "kimi_linear": {"head_dim"},
    "nemotron_h": {"routed_scaling_factor", "sliding_window"},
    "paligemma": {"hidden_size", "vocab_size"},
    "phi3": {"original_max_position_embeddings"},
    "qwen2_moe": {"sliding_window"},
    "qwen3_moe": {"sliding_window"},
    "swin": {"hidden_size"},
    "swinv2": {"hidden_size"},
    "unispeech": {"vocab_size"},
    "unispeech-sat": {"vocab_size"},
    "wav2vec2": {"vocab_size"},
}


def is_read(given, path):
    """Whether the reference uses the field, which must then be a positive number."""
    if path[0] == "text_config" and len(path) > 1:
        return is_read(given["text_config"], path[1:])
    if path[-2:-1] == ("full_attention",) and "full_attention" not in given.get("layer_types", path):
        return False  # no layer of this kind
    if path == ("rope_parameters", "factor") and "alpha" in given["rope_parameters"]:
        return False  # HunYuan's other scaling
    return path[0] != "vision_config" and path[-1] not in UNREAD.get(given["model_type"], ())


ROPE = {
    "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
    "llama3": families.LLAMA3,
    "yarn": {**families.YARN, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.1},
}


@pytest.mark.parametrize("kind", ROPE)
def test_rope_scaling_must_be_valid_numbers(kind):
    given = {**configuration("llama"), "rope_parameters": ROPE[kind]}
    assert refusal(given) is None
    for name in ROPE[kind]:
        for value in NEVER:
            assert refusal(mutant(given, ("rope_parameters", name), value)), (name, value)
    assert refusal({**given, "rope_scaling": {"type": "linear", "factor": 3.0}})


def test_window_must_be_a_positive_integer():
    for name in ("mistral", "qwen2 with windows", "gemma2", "gemma3", "llama"):
        for value in ("x", -3, 0, True, 2.5):
            assert "sliding_window" in refusal({**configuration(name), "sliding_window": value})


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "null", '"x"', "", "{", "[" * 100_000, '{"a": NaN}', '{"a": -Infinity}', '{"a": 1, "a": 2}',
     '{"a": {"' + "b" * 999 + '": 1, "' + "b" * 999 + '": 2}}', '{"a": ' + "9" * 5000 + "}", '{"\\ud800": 1}', "\x00"],
    ids=range(14),
)  # fmt: skip
def test_any_text_gives_one_line(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as found:
        read_config(read_json(path), source=path)
    assert str(found.value).isprintable()
    assert len(str(found.value)) <= 300


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**9), ("num_hidden_layers", 9000), ("vocab_size", 2**40), ("vocab_size", 10**9),
     ("hidden_size", 10**9), ("intermediate_size", 10**9), ("head_dim", 10**8)],
)  # fmt: skip
def test_declared_sizes_are_checked_against_the_tensors_first(field, value):
    tensors = {f"model.layers.{n}.weight": np.zeros((40, 20), np.float32) for n in range(2)}
    with pytest.raises(CheckpointError, match="must have"):
        read_config({**configuration("llama"), field: value}, tensors)


def model_of(name, without=(), **changes):
    given = {k: v for k, v in {**configuration(name), **changes}.items() if k not in without}
    return read_config(given).model.arguments["config"].arguments


def windows_of(name, **changes):
    layers = model_of(name, **changes)["layers"]
    return [layer.arguments["mixer"].arguments.get("window") for layer in layers]


def test_absent_fields_default_as_in_the_reference():
    assert windows_of("llama", sliding_window=3) == [None, None]
    assert windows_of("qwen2 with windows", without=("layer_types", "max_window_layers")) == [None, None]
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    gemma2 = model_of("gemma2", without=caps)
    mixer = gemma2["layers"][0].arguments["mixer"].arguments
    assert (mixer["softcap"], gemma2["logit_softcap"]) == (50.0, 30.0)
    assert windows_of("gemma3", without=("sliding_window",)) == [4096, None]
    vit = model_of("vit", without=("hidden_act", "layer_norm_eps", "patch_size"), image_size=32)
    assert (vit["activation"], vit["norm_eps"], vit["patch_size"]) == ("gelu", 1e-12, (16, 16))
    assert model_of("whisper", scale_embedding=True).get("embed_scale", 1.0) == 1.0


@pytest.mark.parametrize("name", families.CASES)
def test_generation_fields_change_nothing_in_any_family(name):
    """Every generation field of transformers, of current and older configurations."""
    given, said = configuration(name), families.t.GenerationConfig(do_sample=True, temperature=0.9, top_p=0.6)
    written = {key: value for key, value in said.to_dict().items() if key not in given and key in GENERATION}
    older = {"eos_token_ids": None, "num_return_sequences": 1, "bad_words_ids": None, "output_past": True}
    tags = {"auto_map": {"AutoConfig": "x.Y"}, "_num_labels": 2, "sentence_transformers": {"version": "5"}}
    neutral = {"use_mrope": False, "tie_encoder_decoder": False, "cross_attention_hidden_size": None}
    changed = {**written, **older, **tags, **neutral, **given}
    names = ["classifier.weight"]
    assert len(changed) > len(given) + 25
    assert read_config(changed, names) == read_config(given, names)


def test_generation_fields_are_those_of_the_reference():
    """None of them is a model field that changes the arithmetic."""
    theirs = set(families.t.GenerationConfig().to_dict())
    assert len(GENERATION & theirs) > 35
    for case in families.CASES.values():
        assert not {"hidden_act", "rope_theta", "sliding_window", "vocab_size"} & GENERATION
        assert not (GENERATION & set(case.fields)) - {"forced_eos_token_id"}


@pytest.mark.parametrize("field", ["use_mrope", "tie_encoder_decoder", "cross_attention_hidden_size"])
def test_fields_that_change_the_arithmetic_raise_unless_off(field):
    assert field in refusal({**configuration("qwen2"), field: 3})


def test_null_equals_absent_for_fields_with_two_names():
    given = configuration("gemma2")
    for changes in ({"hidden_activation": None, "hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": None}):
        assert read_config({**given, **changes}) == read_config(given)
    assert "n_head" in refusal({**configuration("gpt2"), "n_head": None})
    first = {**configuration("gemma"), "hidden_act": "gelu", "hidden_activation": None}
    assert read_config(first) == read_config({**first, "hidden_act": "gelu_pytorch_tanh"})
    t5 = configuration("t5")
    assert read_config({**t5, "n_positions": 512}) == read_config(t5)


def own(name):
    """The configuration in this package's own format that `save_pretrained` writes for a family's model."""
    return fuzz_samples.own_configs({name: configuration(name)})[f"own, {name}"]


OWN = (
    "bert",
    "llama with yarn",
    "mistral",
    "gemma3",
    "deepseek_v3",
    "bloom",
    "t5",
    "bart",
    "whisper",
    "vit",
    "clip",
)


@pytest.mark.parametrize("name", OWN)
def test_any_value_of_any_own_field_gives_a_model_or_one_line(name):
    given = own(name)
    configs = [read_config(each).model.arguments["config"] for each in (given, configuration(name))]
    assert len({build(each, "torch_attention", {}) for each in configs}) == 1
    for path in places(given):
        if path[0] != "config":
            continue
        kept = [value for value in BAD if refusal(mutant(given, path, value)) is None]
        old = given
        for part in path:
            old = old[part]
        assert (
            all(value is None or type(value) in (type(old), int, float) for value in kept) or old is None
        ), path
        for value in NEVER:
            if type(old) in (int, float) and value is not False and value != 0:
                assert refusal(mutant(given, path, value)), (path, value)
        removed = copy.deepcopy(given)
        below = removed
        for part in path[:-1]:
            below = below[part]
        del below[path[-1]]
        refusal(removed)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model",), "Linear", "must have a model of"),
        (("model",), "ModelSpec", "must have a model of"),
        (("config", "class"), "EncoderConfig", "must have class"),
        (("config", "vocab_size"), 3.0, "positive whole number vocab_size"),
        (("config", "tied"), 1, "tied true or false"),
        (("config", "layers"), 3, "a list layers"),
        (("config", "layers"), [3], "must have the fields layers"),
        (("config", "layers"), [], "must have a layer"),
        (("config", "layers", 0, "arrangement"), "tanh", "must have arrangement pre, pre_feed_forward, post"),
        (("config", "layers", 0, "mixer"), 3, "must have the fields mixer"),
        (("config", "layers", 0, "mixer", "name"), "os.system", "the name of a class"),
        (("config", "layers", 0, "mixer", "name"), "nn", "the name of a class"),
        (("config", "layers", 0, "mixer", "arguments"), [1], "must have the fields arguments"),
        (("config", "layers", 0, "mixer", "arguments", "num_heads"), 2**40, "num_heads of at most"),
        (("config", "layers", 0, "mixer", "arguments", "num_heads"), 3.5, "positive whole number num_heads"),
        (("config", "layers", 0, "mixer", "arguments", "more"), 1, "does not take: more"),
        (("config", "layers", 0, "mixer", "arguments", "dropout"), 1.0, "dropout below 1"),
        (("config", "layers", 0, "mixer", "arguments"), {}, "must have num_heads"),
        (("config", "layers", 0, "ffn", "arguments", "activation"), "sine", "must have activation"),
        (("config", "layers", 0, "norm", "arguments", "eps"), -1.0, "zero or a positive number eps"),
        (("config", "layers", 0, "mixer", "more"), 1, "that a part has not: more"),
        (("config", "more"), 1, "has not: more"),
    ],
)
def test_own_configuration_is_checked_by_the_types_of_its_dataclasses(path, value, message):
    assert message in refusal(mutant(own("mistral"), path, value))


def test_declarations_are_those_of_the_dataclasses():
    import dataclasses

    import torch_attention.models as theirs
    from torch_attention.models import part_builder

    for name, fields in declarations.configurations().items():
        kept = dataclasses.fields(getattr(theirs, name))
        assert [field.name for field in kept] == list(fields)
        assert [field.default is field.default_factory is dataclasses.MISSING for field in kept] == [
            d.required for d in fields.values()
        ]
    names = part_builder._parts()
    assert names.keys() <= declarations.parts().keys()
    for name, made in names.items():
        signature = inspect.signature(made.__init__ if inspect.isclass(made) else made)
        taken = signature.parameters.keys() - {"self", "device", "dtype", "args", "kwargs"}
        assert declarations.parts()[name].keys() == taken, name
        for argument in taken:
            required = signature.parameters[argument].default is inspect.Parameter.empty
            assert declarations.parts()[name][argument].required == required, (name, argument)
    assert all(hasattr(theirs, model) and config in declarations.configurations() for model, config in
               declarations.models().items())  # fmt: skip


BEFORE = json.loads((Path(__file__).parents[1] / "fixtures" / "own_configurations_before.json").read_text())


@pytest.mark.parametrize("name", BEFORE)
def test_own_configurations_of_older_versions_give_the_same_model(name):
    """Files written by older versions, against the model of the family's configuration."""
    found = []
    tokens = torch.arange(6)[None]
    for given in (BEFORE[name], configuration(name)):
        torch.manual_seed(0)
        model = build(read_config(given).model, "torch_attention", {}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.2, 0.4)
            found.append(model(tokens, tokens) if name.startswith("t5") else model(tokens))
    assert [tuple(x.shape) for x in found[0][:1]] == [tuple(x.shape) for x in found[1][:1]]
    torch.testing.assert_close(found[0].logits, found[1].logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("mistral", ("heads", "num_heads"), 3.0, "positive whole number num_heads"),
        ("mistral", ("heads", "class"), "LatentHeadsConfig", "must have class"),
        ("mistral", ("windows",), [3, -1], "positive whole number windows"),
        ("mistral", ("windows",), [3], "windows for each of 2 layers"),
        ("mistral", ("rope", "frequencies"), "x", "a list frequencies"),
        ("mistral", ("more",), 1, "not known: more"),
        ("deepseek_v3", ("experts", "num_chosen"), 0, "positive whole number num_chosen"),
        ("bloom", ("shared_norm",), True, "shared_norm false, or parallel true"),
        ("t5", ("heads", "scale"), 0.5, "scale 1.0"),
        ("t5", ("heads", "qk_norm"), True, "without biases, softcap and norms"),
    ],
)
def test_own_configurations_of_older_versions_are_checked(name, path, value, message):
    assert message in refusal(mutant(BEFORE[name], ("config", *path), value))
