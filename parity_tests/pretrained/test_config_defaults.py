"""Absent fields of a configuration: the readers take the defaults of the reference, transformers."""

import json

import pytest

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.defaults import defaults_of
from parity_tests.helpers import config_defaults, families

CASES = sorted(families.CASES)
SHOWN = {"model_type", "transformers_version"}


def plain(config):
    """All fields of a configuration of transformers, as JSON holds them."""
    return json.loads(config.to_json_string(use_diff=False))


def outcome(config):
    """The model and the axes that a configuration describes; None if it raises an error."""
    try:
        reading = read_config(config)
    except CheckpointError:
        return None
    return reading.model, reading.axes


def test_stored_defaults_are_those_of_the_reference():
    table = config_defaults.table()
    assert {name: defaults_of(name) for name in table} == table


@pytest.mark.parametrize("name", CASES)
def test_absent_field_means_what_the_reference_reads(name):
    case = families.CASES[name]
    whole = plain(case.config(**case.fields))
    compared = 0
    for field in whole.keys() - SHOWN:
        rest = {key: value for key, value in whole.items() if key != field}
        try:
            reference = plain(case.config.from_dict(case.config._decode_special_floats(dict(rest))))
        except Exception:  # the reference itself needs the field
            continue
        assert outcome(rest) == outcome(reference), field
        compared += outcome(rest) is not None
    assert compared > len(whole) / 2


def test_absent_rope_base_of_gemma_3_is_a_million_in_layers_without_a_window():
    case = families.CASES["gemma3"]
    given = {
        key: value for key, value in plain(case.config(**case.fields)).items() if key != "rope_parameters"
    }
    layers = read_config(given).model.arguments["config"].arguments["layers"]
    bases = {
        "window" in mixer.arguments: mixer.arguments["position"].arguments["base"]
        for mixer in (layer.arguments["mixer"] for layer in layers)
    }
    assert bases == {True: 10_000.0, False: 1_000_000.0}


def test_null_field_has_no_default():
    case = families.CASES["deepseek_v3"]
    given = plain(case.config(**case.fields)) | {"q_lora_rank": None}
    (layer, *_) = read_config(given).model.arguments["config"].arguments["layers"]
    assert layer.arguments["mixer"].arguments.get("q_lora_rank") is None
