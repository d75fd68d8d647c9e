"""The demo's encoder checkpoint: supported fields, and errors that name unsupported ones."""

import json

import ml_dtypes
import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.demo.checkpoint import check_mean_pooling, read_sentence_encoder
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.defaults import defaults_of
from parity_tests.helpers import families
from torch_attention.models import EncoderConfig

FIELDS = {
    "model_type": "bert",
    "vocab_size": 101,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
}


def write(directory, name, content):
    path = directory / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def directory(tmp_path):
    """A directory with a tiny BERT in bfloat16."""
    families.model(families.CASES["bert"]).bfloat16().save_pretrained(tmp_path)
    return tmp_path


def encoder_config(fields):
    return read_config(fields).model.arguments["config"].arguments


def test_bert_config_becomes_encoder_arguments():
    config = EncoderConfig(**encoder_config(FIELDS))
    assert config == EncoderConfig(
        vocab_size=101,
        embed_dim=24,
        num_heads=3,
        num_layers=2,
        ffn_dim=40,
        max_len=64,
        num_types=2,
        activation="gelu",
        norm_eps=1e-12,
        pooler=False,
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("gelu", "gelu"), ("relu", "relu"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")],
)
def test_each_activation_keeps_its_exact_form(theirs, ours):
    assert encoder_config(FIELDS | {"hidden_act": theirs})["activation"] == ours


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("position_embedding_type", "relative_key", "'absolute', got 'relative_key'"),
        ("is_decoder", True, "is_decoder False, got True"),
        ("add_cross_attention", True, "add_cross_attention False, got True"),
        ("pruned_heads", {"0": [1]}, "pruned_heads {}, got {'0': [1]}"),
        ("quantization_config", {"bits": 4}, "quantization_config None, got {'bits': 4}"),
        ("hidden_act", "sine", "silu, swish, tanh, got 'sine'"),
        ("num_attention_heads", 5, "num_attention_heads divides, got 24 and 5"),
        ("vocab_size", "many", "positive whole number vocab_size, got 'many'"),
        ("vocab_size", None, "positive whole number vocab_size, got None"),
        ("num_hidden_layers", True, "positive whole number num_hidden_layers, got True"),
        ("layer_norm_eps", 0, "positive number layer_norm_eps, got 0"),
        ("rotary_base", 10000, "not understood: rotary_base"),
    ],
)
def test_unsupported_field_raises_with_its_name(field, value, expected):
    with pytest.raises(CheckpointError) as raised:
        encoder_config(FIELDS | {field: value})
    assert expected in str(raised.value)


def test_absent_fields_have_the_defaults_of_bert_and_null_ones_raise():
    defaults = defaults_of("bert")
    for field in FIELDS.keys() - {"model_type", "hidden_dropout_prob", "position_embedding_type"}:
        absent = {name: value for name, value in FIELDS.items() if name != field}
        assert encoder_config(absent) == encoder_config(FIELDS | {field: defaults[field]}), field
        with pytest.raises(CheckpointError, match=field):
            encoder_config(FIELDS | {field: None})


def test_16_bit_weights_are_widened_exactly(directory):
    encoder = read_sentence_encoder(directory)
    stored = checkpoints.read(directory)["embeddings.word_embeddings.weight"]
    read = encoder.pretrained.weights["token_embedding.weight"]
    assert (stored.dtype, read.dtype) == (ml_dtypes.bfloat16, np.float32)
    assert np.array_equal(stored.astype(np.float64), read.astype(np.float64))


def test_another_architecture_raises(directory):
    fields = json.loads((directory / "config.json").read_text())
    write(directory, "config.json", fields | {"model_type": "roberta"})
    with pytest.raises(CheckpointError, match=r"BERT encoder, model_type 'bert', got 'roberta'"):
        read_sentence_encoder(directory)


def test_sentence_length_is_the_shorter_of_the_two(directory):
    longest = read_sentence_encoder(directory).config["max_len"]
    for given, expected in ((longest - 3, longest - 3), (longest + 3, longest)):
        write(directory, "sentence_bert_config.json", {"max_seq_length": given})
        assert read_sentence_encoder(directory).max_tokens == expected


def test_missing_or_invalid_config_is_named(tmp_path):
    for directory, reason in (("none", "No such file"), ("x" * 300, "File name too long")):
        with pytest.raises(CheckpointError, match=rf"config\.json cannot be read: {reason}"):
            read_sentence_encoder(tmp_path / directory)
    write(tmp_path, "config.json", "{")
    with pytest.raises(CheckpointError, match=r"config\.json must be JSON"):
        read_sentence_encoder(tmp_path)
    write(tmp_path, "config.json", "[]")
    with pytest.raises(CheckpointError, match=r"config\.json must hold a JSON dict, got list"):
        read_sentence_encoder(tmp_path)


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}]
)
def test_mean_pooling_is_recognised_in_current_and_older_files(tmp_path, pooling):
    write(tmp_path, "modules.json", [{"type": "a.Transformer"}, {"type": "b.Pooling", "path": "1_Pooling"}])
    write(tmp_path, "1_Pooling/config.json", pooling)
    check_mean_pooling(tmp_path)


def test_another_pooling_or_module_raises(tmp_path):
    check_mean_pooling(tmp_path)
    write(tmp_path, "modules.json", [{"type": "b.Pooling", "path": "1_Pooling"}])
    write(tmp_path, "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    with pytest.raises(CheckpointError, match="must pool by the mean over tokens, got cls"):
        check_mean_pooling(tmp_path)
    write(tmp_path, "modules.json", [{"type": "b.Dense", "path": "2_Dense"}])
    with pytest.raises(CheckpointError, match="must list only Transformer, Pooling, Normalize, got Dense"):
        check_mean_pooling(tmp_path)
