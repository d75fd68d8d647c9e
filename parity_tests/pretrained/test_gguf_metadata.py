"""Configurations from the metadata of GGUF files: every entry is read, or refused by name."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError, ConversionError
from attention_bridge.pretrained import load_pretrained
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.readers.gguf import gguf_config
from attention_bridge.pretrained.inspection import inspect
from attention_bridge.pretrained.load import read_pretrained
from parity_tests.helpers import gguf_models
from parity_tests.helpers.gguf_models import (
    BASE,
    CASES,
    LAYERS,
    SMALL,
    VOCAB,
    make,
    metadata_of,
)
from torch_attention.positions import rotary_frequencies

ROPE_FREQS = {"more": {"rope_freqs.weight": gguf_models.llama3_factors(SMALL.head_dim // 2)}.items()}
LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 3.0}


class TestConfig:
    def test_fields(self):
        metadata = metadata_of(CASES["llama"], **{"tokenizer.ggml.eot_token_id": 5, "general.name": "a"})
        assert gguf_config(metadata) == {
            "model_type": "gguf.llama",
            "vocab_size": VOCAB,
            "hidden_size": SMALL.dim,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": SMALL.heads,
            "num_key_value_heads": SMALL.groups,
            "head_dim": SMALL.head_dim,
            "intermediate_size": SMALL.ffn,
            "rms_norm_eps": 1e-3,
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_theta": BASE},
            "qkv_bias": False,
            "out_bias": False,
            "ffn_bias": False,
            "tie_word_embeddings": False,
            "eos_token_id": [2, 5],
            "bos_token_id": 1,
        }

    def test_absent_entries_have_the_defaults_of_llama_cpp(self):
        sizes = SMALL._replace(dim=SMALL.heads * SMALL.head_dim)
        absent = (
            "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
            "rope.freq_base", "vocab_size", "context_length",
        )  # fmt: skip
        metadata = metadata_of(CASES["llama"], sizes, **{f"llama.{name}": None for name in absent})
        found = gguf_config({**metadata, "tokenizer.ggml.tokens": ["a"] * 41})
        assert found["num_key_value_heads"] == SMALL.heads
        assert found["head_dim"] == SMALL.head_dim
        assert found["rope_parameters"] == {"rope_theta": 10000.0}
        assert found["vocab_size"] == 41
        assert "max_position_embeddings" not in found

    def test_sizes_that_are_equal_in_all_layers(self):
        per_layer = np.array([SMALL.groups] * LAYERS, np.int32)
        metadata = metadata_of(CASES["llama"]) | {"llama.attention.head_count_kv": per_layer}
        assert gguf_config(metadata)["num_key_value_heads"] == SMALL.groups

    def test_embedding_gives_the_number_of_tokens(self, tmp_path):
        path = make(tmp_path, **{"llama.vocab_size": VOCAB - 1})
        assert read_pretrained(path).reading.model.arguments["config"].arguments["vocab_size"] == VOCAB

    def test_special_tokens_are_on_the_model(self, tmp_path):
        path = make(tmp_path, **{"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.padding_token_id": VOCAB})
        special = load_pretrained(path, "torch").config.special_tokens
        assert (special.eos, special.bos, special.pad) == ((2, 5), 1, None)  # there is no token VOCAB

    def test_metadata_win_over_a_configuration_beside(self, tmp_path):
        path = make(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        assert read_pretrained(path).reading.layout.name == "gguf.llama"

    def test_fields_can_be_changed(self, tmp_path):
        given = {"llama.rope.freq_base": 50.0, "llama.new_arithmetic": 1.0}
        path = make(tmp_path, **given)
        model = load_pretrained(
            path, "torch", config={"rope_parameters": {"rope_theta": BASE}}, ignore=("llama.new_arithmetic",)
        )
        assert model.layers[0].attention.position.frequencies == rotary_frequencies(SMALL.head_dim, BASE)


WRONG = {
    "architecture": ({"general.architecture": "gemma3"}, r"general\.architecture of llama, .* got 'gemma3'; load"),
    "no architecture": ({"general.architecture": None}, r"general\.architecture of llama, .* got None"),
    "list as architecture": ({"general.architecture": np.arange(3)}, r"got \[0, 1, 2\]"),
    "adapter": ({"general.type": "adapter"}, r"the general\.type model, got 'adapter'$"),
    "part": ({"split.count": 3}, r"a whole model, got one of 3 parts; join them with .*--merge`$"),
    "size": ({"llama.block_count": None}, r"a positive whole number llama\.block_count, got None$"),
    "eps": ({"llama.attention.layer_norm_rms_epsilon": -1.0}, r"a positive number llama\.attention\.layer_norm"),
    "tokens": ({"llama.vocab_size": None}, r"token_embd\.weight or llama\.vocab_size, got neither$"),
    "head width": ({"llama.attention.key_length": None, "llama.attention.head_count": 5}, "that .* divides"),
    "values": ({"llama.attention.value_length": 31}, r"llama\.attention\.value_length 32, got 31$"),
    "partial rotary": ({"llama.rope.dimension_count": 16}, r"llama\.rope\.dimension_count 32, got 16$"),
    "experts": ({"llama.expert_count": 8}, r"llama\.expert_count 0, got 8$"),
    "not causal": ({"llama.attention.causal": False}, r"llama\.attention\.causal True, got False$"),
    "layers of several sizes": (
        {"llama.feed_forward_length": np.array([96, 160])},
        r"whole number llama\.feed_forward_length, got \[96, 160\]$",
    ),
    "longrope": (
        {"llama.rope.scaling.type": "longrope"},
        r"a llama\.rope\.scaling\.type of none, linear, yarn, got 'longrope'$",
    ),
    "amplitude": ({"llama.rope.scaling.attn_factor": 1.5}, r"llama\.rope\.scaling\.attn_factor 1\.0, got 1\.5$"),
    "another ramp": (
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_ext_factor": 0.5},
        r"llama\.rope\.scaling\.yarn_ext_factor 1\.0, got 0\.5$",
    ),
    "pattern": (
        {"llama.attention.sliding_window": 3, "llama.attention.sliding_window_pattern": 2},
        r"a llama\.attention\.sliding_window_pattern of true or false for each of 2 layers, got 2$",
    ),
    "unread": (
        {"llama.logit_scale": 2.0, "llama.rope.scaling.yarn_attn_factor": 1.0},
        r"may change the arithmetic and are not understood: llama\.logit_scale, llama\.rope\.scaling\.yarn_att",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_metadata_that_are_not_understood_are_named(name):
    changes, message = WRONG[name]
    metadata = {**metadata_of(CASES["llama"]), **changes}
    with pytest.raises(CheckpointError, match=rf"^x\.gguf (must have|must be|has) .*{message}"):
        gguf_config({key: x for key, x in metadata.items() if x is not None}, source="x.gguf")


ODD = (
    0, -1, 1, 3, 2**31, 2**63, 2**64 - 1, 0.0, -0.0, 1e-45, 1e300, math.inf, math.nan, True, False, "", "linear",
    "yarn", "none", "x" * 999, "\n", [], ["a", "b"], [[1], [2]], [True, False], np.arange(3), np.ones(2),
    np.array([2, 2], "u8"), np.array([True, False]), np.zeros(0, "f4"),
)  # fmt: skip
FULL = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 16,
    "llama.rope.scaling.attn_factor": 1.0,
    "llama.rope.scaling.yarn_beta_fast": 4.0,
    "llama.rope.scaling.yarn_beta_slow": 0.5,
    "llama.rope.scaling.yarn_ext_factor": 1.0,
    "llama.rope.scaling.finetuned": True,
    "llama.attention.sliding_window": 3,
    "llama.attention.sliding_window_pattern": [False, True],
    "llama.attention.causal": True,
    "llama.expert_count": 0,
    "llama.pooling_type": 1,
    "general.type": "model",
    "split.count": 1,
    "tokenizer.ggml.tokens": ["a"] * VOCAB,
    "tokenizer.ggml.padding_token_id": 3,
}


def outcome(metadata):
    """The model of metadata, or the error."""
    try:
        return read_config(gguf_config(metadata, source="x.gguf"), source="x.gguf").model
    except CheckpointError as error:
        message = str(error)
    assert message.isprintable()
    assert message.startswith("x.gguf ")
    return message


@pytest.mark.parametrize("key", [*metadata_of(CASES["llama"]), *FULL])
def test_any_value_of_any_entry_gives_a_model_or_one_line(key):
    metadata = metadata_of(CASES["llama"], **FULL)
    for value in ODD:
        outcome({**metadata, key: value})


HARMLESS = ("llama.context_length", "llama.pooling_type")  # `original_context_length` is there


@pytest.mark.parametrize(
    "key", [key for key, x in metadata_of(CASES["llama"], **FULL).items() if type(x) in (int, float)]
)
def test_any_changed_number_changes_the_model_or_raises(key):
    metadata = metadata_of(CASES["llama"], **FULL)
    changed = {**metadata, key: 2 * metadata[key] or 1}
    assert isinstance(outcome(metadata), Part)
    assert (outcome(changed) == outcome(metadata)) == (key in HARMLESS)


class TestRefusals:
    def test_metadata_are_named_before_any_weight_is_read(self, tmp_path):
        path = make(tmp_path, **{"llama.logit_scale": 2.0})
        with pytest.raises(CheckpointError, match=r"model\.gguf has metadata .* llama\.logit_scale$"):
            load_pretrained(path, "torch")
        assert "llama.logit_scale" in inspect(path).config_note

    @pytest.mark.parametrize(("architecture", "layouts"), [("llama", ["gguf.llama"]), ("gemma", [])])
    def test_layouts_of_a_refused_file_are_those_of_its_architecture(self, tmp_path, architecture, layouts):
        path, case = tmp_path / "x.gguf", dataclasses.replace(CASES["llama"], architecture=architecture)
        metadata = metadata_of(case, **{f"{architecture}.logit_scale": 2.0})
        found = inspect(gguf_models.write(path, case, metadata, gguf_models.tensors_of(case)))
        assert [each.layout for each in found.layouts] == layouts
        assert (found.model, architecture in found.config_note) == (None, True)

    def test_qwen_with_a_window_and_no_pattern(self):
        metadata = metadata_of(CASES["qwen2"], **{"qwen2.attention.sliding_window": 3})
        with pytest.raises(CheckpointError, match=r"sliding_window_pattern of true or false .* got None$"):
            gguf_config(metadata)

    @pytest.mark.parametrize(
        ("factors", "message"),
        [
            (np.ones(5, np.float32), r"16 factors in rope_freqs\.weight, got "),
            (np.zeros(16, np.float32), r"a positive number rope_freqs\.weight, got 0\.0$"),
            (np.full(16, np.nan, np.float32), r"a positive number rope_freqs\.weight, got nan$"),
        ],
    )
    def test_frequency_factors(self, tmp_path, factors, message):
        path = make(tmp_path, more={"rope_freqs.weight": factors}.items())
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(path, "torch")

    def test_frequency_factors_beside_another_scaling(self, tmp_path):
        given = {**ROPE_FREQS, **LINEAR}
        with pytest.raises(CheckpointError, match=r"rope_freqs\.weight or another scaling .* got both$"):
            load_pretrained(make(tmp_path, **given), "torch")

    def test_frequency_factors_of_metadata_alone(self, tmp_path):
        with (
            checkpoints.open(make(tmp_path, **ROPE_FREQS)) as reader,
            pytest.raises(CheckpointError, match=r"must be opened: rope_freqs\.weight changes the rotary"),
        ):
            gguf_config(reader.metadata, reader.specs)

    @pytest.mark.parametrize("extra", ["blk.0.attn_q.scale", "cls.output.weight", "blk.0.attn_qkv.weight"])
    def test_tensor_that_no_rule_understands(self, tmp_path, extra):
        path = make(tmp_path, more={extra: np.ones((1, 3), np.float32)}.items())
        with pytest.raises(ConversionError, match=re.escape(extra)):
            load_pretrained(path, "torch")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"layer_windows": 3}, "a window or null in layer_windows for each of 2 layers, got 3"),
            ({"layer_windows": [3]}, r"a window or null in layer_windows for each of 2 layers, got \[3\]"),
            ({"layer_windows": [None, 0]}, "a positive whole number layer_windows, got 0"),
            ({"rope_frequency_factors": 3}, r"16 factors in rope_freqs\.weight, one per frequency, got 3"),
            ({"num_key_value_heads": 3}, "num_attention_heads that num_key_value_heads divides"),
            ({"new_arithmetic": 1}, "new_arithmetic"),
        ],
    )
    def test_changed_configuration(self, given, message):
        config = gguf_config(metadata_of(CASES["llama"]))
        read_config(config)
        with pytest.raises(CheckpointError, match=message):
            read_config({**config, **given})
