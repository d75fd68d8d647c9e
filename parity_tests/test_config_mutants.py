"""Any configuration gives a model or one line: every field of every family, with values that it cannot have."""

from __future__ import annotations

import copy
import json
import math

import families
import numpy as np
import pytest

from attention_bridge.config_files import read_json
from attention_bridge.errors import CheckpointError
from attention_bridge.families import read_config

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
    """Every field, those below fields too."""
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
    """The one line that refuses a configuration, or None; anything else than a CheckpointError is raised."""
    message = None
    try:
        read_config(given, ["classifier.weight"], source="/somewhere/" + "deep/" * 20 + "config.json")
    except CheckpointError as error:
        message = str(error)
    assert message is None or (message.isprintable() and len(message) <= 300)
    return message


@pytest.mark.parametrize("name", families.CASES)
def test_any_value_of_any_field_gives_a_model_or_one_line(name):
    given = configuration(name)
    assert refusal(given) is None
    for path in places(given):
        for value in BAD:
            refusal(mutant(given, path, value))
        for value in NEVER if path[-1] in POSITIVE else ():
            listed = path[-1] in ("image_size", "patch_size") and value == [1]
            assert listed or refusal(mutant(given, path, value)), (path, value)


ROPE = {
    "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
    "llama3": families.LLAMA3,
    "yarn": {**families.YARN, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.1},
}


@pytest.mark.parametrize("kind", ROPE)
def test_positions_are_stretched_by_numbers_that_can_be(kind):
    given = {**configuration("llama"), "rope_parameters": ROPE[kind]}
    assert refusal(given) is None
    for name in ROPE[kind]:
        for value in NEVER:
            assert refusal(mutant(given, ("rope_parameters", name), value)), (name, value)
    assert refusal({**given, "rope_scaling": {"type": "linear", "factor": 3.0}})


def test_a_window_is_a_positive_whole_number():
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
def test_declared_sizes_are_compared_with_the_tensors_before_a_model_is_built(field, value):
    tensors = {f"model.layers.{n}.weight": np.zeros((40, 20), np.float32) for n in range(2)}
    with pytest.raises(CheckpointError, match="must have"):
        read_config({**configuration("llama"), field: value}, tensors)


def model_of(name, without=(), **changes):
    given = {k: v for k, v in {**configuration(name), **changes}.items() if k not in without}
    return read_config(given).model.arguments["config"].arguments


def test_absent_fields_are_what_the_reference_takes():
    assert model_of("llama", sliding_window=3)["windows"] == ()
    assert model_of("qwen2 with windows", without=("layer_types", "max_window_layers"))["windows"] == (
        None,
        None,
    )
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    gemma2 = model_of("gemma2", without=caps)
    assert (gemma2["heads"].arguments["softcap"], gemma2["logit_softcap"]) == (50.0, 30.0)
    assert model_of("gemma3", without=("sliding_window",))["windows"] == (4096, None)
    vit = model_of("vit", without=("hidden_act", "layer_norm_eps", "patch_size"), image_size=32)
    assert (vit["activation"], vit["norm_eps"], vit["patch_size"]) == ("gelu", 1e-12, (16, 16))
    assert model_of("whisper", scale_embedding=True).get("embed_scale", 1.0) == 1.0
