"""GGUF files as models: outputs of transformers and of llama.cpp, positions, and conversion."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader
from safetensors.numpy import load_file
from typer.testing import CliRunner

import jax_attention.models
import torch_attention.models
from attention_bridge import checkpoints
from attention_bridge.cli import app
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.inspection import inspect
from attention_bridge.pretrained.load import read_pretrained
from attention_bridge.weights import convert, transfer
from parity_tests.helpers import families, gguf_models
from parity_tests.helpers.gguf_models import (
    BASE,
    CASES,
    LARGE,
    SMALL,
    SQUARE,
    VOCAB,
    make,
    metadata_of,
)

BATCH, LENGTH, NEW = 2, 7, 3
ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
MODELS = {"torch": torch_attention.models, "jax": jax_attention.models}
BIASED = {"attention_bias": True, "mlp_bias": True}
# Of each file: the arguments of `make`, and fields that transformers does not read from it.
FILES = {
    "llama Q8_0": ({"kind": "Q8_0"}, {}),
    "llama F32 and F16, tied": ({"kind": ("F32", "F16"), "tied": True}, {}),
    "llama BF16 with biases": ({"name": "llama with biases", "kind": "BF16"}, BIASED),
    "llama Q4_K and Q6_K": ({"kind": ("Q4_K", "Q6_K", "Q5_K"), "sizes": LARGE}, {}),
    "qwen2 Q4_0, tied": ({"name": "qwen2", "kind": "Q4_0", "tied": True, "sizes": SQUARE}, {}),
    "qwen3 Q8_0 and Q5_1": ({"name": "qwen3", "kind": ("Q8_0", "Q5_1")}, {"head_dim": SMALL.head_dim}),
    "qwen3 Q6_K and IQ4_XS": (
        {"name": "qwen3", "kind": ("Q6_K", "IQ4_XS", "Q2_K"), "sizes": LARGE},
        {"head_dim": LARGE.head_dim},
    ),
}
SHORT = (
    ("llama Q8_0", "torch"),
    ("llama F32 and F16, tied", "torch"),
    ("llama BF16 with biases", "torch"),
    ("llama Q4_K and Q6_K", "torch"),
    ("qwen2 Q4_0, tied", "torch"),
    ("qwen3 Q8_0 and Q5_1", "torch"),
)


def run(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)


def logits(model, framework, tokens):
    return families.numpy_of({"output": model(ARRAYS[framework](tokens)).output})["output"]


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def greedy(model, tokens):
    """The next tokens, each computed from the whole text."""
    for _ in range(NEW):
        tokens = np.concatenate([tokens, their_logits(model, tokens)[:, -1:].argmax(-1)], 1)
    return tokens[:, LENGTH:]


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        pytest.param(name, framework, marks=() if (name, framework) in SHORT else pytest.mark.slow)
        for name in FILES
        for framework in ARRAYS
    ],
)
def test_model_gives_the_logits_and_tokens_of_transformers(tmp_path, tokens, name, framework):
    given, changes = FILES[name]
    path = make(tmp_path, **given)
    theirs = gguf_models.reference(path, **changes)
    model = load_pretrained(path, framework, dtype="float32")
    assert error(logits(model, framework, tokens), their_logits(theirs, tokens)) <= families.bound(theirs)
    written = MODELS[framework].generate(model, ARRAYS[framework](tokens), NEW, eos_token=())
    np.testing.assert_array_equal(np.asarray(written), greedy(theirs, tokens))


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        pytest.param(
            name, framework, marks=pytest.mark.slow if framework == "jax" and name != "llama" else ()
        )
        for name in gguf_models.COMPUTED
        for framework in ARRAYS
    ],
)
def test_model_gives_the_logits_of_llama_cpp(tmp_path, name, framework):
    stored = load_file(Path(__file__).parents[1] / "fixtures" / "gguf.safetensors")
    case, sizes, changes = gguf_models.COMPUTED[name]
    arrays = {key.removeprefix(f"{name}/"): x for key, x in stored.items() if key.startswith(f"{name}/")}
    expected, metadata = arrays.pop("logits"), metadata_of(CASES[case], sizes, **changes)
    path = gguf_models.write(tmp_path / "x.gguf", CASES[case], metadata, arrays)
    found = logits(load_pretrained(path, framework), framework, stored["tokens"][None])[0]
    assert error(found, expected) <= 1e-6


def test_weights_of_a_directory_are_those_of_transformers(tmp_path):
    path = make(tmp_path, kind=("Q8_0", "F16", "BF16"))
    theirs = {name: x.numpy() for name, x in gguf_models.reference(path).state_dict().items()}
    expected, _ = convert(theirs, "hf.llama", "torch_attention")
    found = read_pretrained(tmp_path).weights
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_dtypes_of_the_file_are_kept(tmp_path):
    path = make(tmp_path, kind="F16")
    assert {x.dtype.name for x in read_pretrained(path).weights.values()} == {"float32"}  # norms are
    assert {x.dtype.name for x in read_pretrained(path, dtype="bf16").weights.values()} == {"bfloat16"}


@pytest.mark.parametrize("name", ["llama", "llama with biases"])
def test_unpermuted_rows_are_detected(tmp_path, tokens, name):
    path = make(tmp_path, name)
    theirs = gguf_models.reference(path, **(BIASED if "biases" in name else {}))
    model = load_pretrained(path, "torch")
    with checkpoints.open(path) as reader:
        given = dict(reader.items())
    undone, _ = convert(given, "gguf.llama", "torch_attention", {"pair": SMALL.head_dim // 2})
    as_they_are, _ = convert(given, "gguf.qwen", "torch_attention")
    expected, bound = their_logits(theirs, tokens), families.bound(theirs)
    assert error(logits(transfer(undone, model), "torch", tokens), expected) <= bound
    for ending in ("weight", "bias") if "biases" in name else ("weight",):
        wrong = {key: x for key, x in as_they_are.items() if re.search(rf"[qk]_proj\.{ending}", key)}
        found = logits(transfer({**undone, **wrong}, model), "torch", tokens)
        assert error(found, expected) > 1000 * bound, ending


@pytest.mark.parametrize("name", ["llama with biases", "qwen3"])
def test_round_trip_between_layouts_keeps_the_bytes(tmp_path, name):
    with checkpoints.open(make(tmp_path, name)) as reader:
        given = dict(reader.items())
    layout, axes = "gguf.qwen" if name == "qwen3" else "gguf.llama", {"pair": SMALL.head_dim // 2}
    ours, _ = convert(given, layout, "torch_attention", axes)
    back, _ = convert(ours, "torch_attention", layout, axes)
    assert {key: x.tobytes() for key, x in back.items()} == {key: x.tobytes() for key, x in given.items()}


YARN = {"rope_type": "yarn", "rope_theta": BASE, "factor": 4.0, "original_max_position_embeddings": 16}
# Of each kind of position or window: the arguments of `make`, and of the reference.
POSITIONS = {
    "rope_freqs": (
        {"more": {"rope_freqs.weight": gguf_models.llama3_factors(SMALL.head_dim // 2)}.items()},
        {"rope_parameters": gguf_models.LLAMA3},
    ),
    "linear": (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 3.0},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": BASE, "factor": 3.0}},
    ),
    "linear by the older name": (
        {"llama.rope.scale_linear": 3.0},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": BASE, "factor": 3.0}},
    ),
    "yarn": (
        {
            "name": "qwen2",
            "sizes": SQUARE,
            "qwen2.rope.scaling.type": "yarn",
            "qwen2.rope.scaling.factor": 4.0,
            "qwen2.rope.scaling.original_context_length": 16,
        },
        {"rope_parameters": YARN},
    ),
    "yarn with betas": (
        {
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.yarn_beta_fast": 4.0,
            "llama.rope.scaling.yarn_beta_slow": 0.5,
        },
        {
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 64,
                "beta_fast": 4.0,
                "beta_slow": 0.5,
            }
        },
    ),
    "window": (
        {"llama.attention.sliding_window": 3},
        {"kind": transformers.MistralConfig, "sliding_window": 3},
    ),
    "windows of some layers": (
        {
            "name": "qwen2",
            "sizes": SQUARE,
            "qwen2.attention.sliding_window": 3,
            "qwen2.attention.sliding_window_pattern": [False, True],
        },
        {
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
    "nothing": ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 3.0}, {}),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_and_windows_are_those_of_transformers(tmp_path, tokens, name):
    given, changes = POSITIONS[name]
    path = make(tmp_path, **given)
    theirs = gguf_models.reference(path, **changes)
    found = logits(load_pretrained(path, "torch"), "torch", tokens)
    bound = families.bound(theirs)
    assert error(found, their_logits(theirs, tokens)) <= bound
    if changes:  # which transformers does not read from the file
        assert error(found, their_logits(gguf_models.reference(path), tokens)) > 1000 * bound


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rope_freqs", "window"])
def test_positions_and_windows_in_jax(tmp_path, tokens, name):
    given, changes = POSITIONS[name]
    path = make(tmp_path, **given)
    theirs = gguf_models.reference(path, **changes)
    found = logits(load_pretrained(path, "jax"), "jax", tokens)
    assert error(found, their_logits(theirs, tokens)) <= families.bound(theirs)


def test_model_with_frequency_factors_is_saved_and_loaded(tmp_path, tokens):
    path = make(tmp_path, **POSITIONS["rope_freqs"][0])
    model = load_pretrained(path, "torch")
    save_pretrained(model, tmp_path / "saved")
    again = load_pretrained(tmp_path / "saved", "torch")
    assert again.config == model.config
    np.testing.assert_array_equal(logits(again, "torch", tokens), logits(model, "torch", tokens))


class TestConversion:
    def test_command_finds_the_layout_in_the_metadata(self, tmp_path):
        path = make(tmp_path, kind=("Q8_0", "F32"))
        run("convert", path, tmp_path / "out.safetensors", "--to", "torch_attention")
        expected = read_pretrained(path).weights
        found = load_file(tmp_path / "out.safetensors")
        assert {name: x.tobytes() for name, x in found.items()} == {
            name: x.tobytes() for name, x in expected.items()
        }

    def test_quantised_values_are_those_of_the_package(self, tmp_path):
        path = make(tmp_path, "qwen3", kind="Q8_0")
        run("convert", path, tmp_path / "out.safetensors", "--to", "hf.llama")
        (stored,) = (x for x in GGUFReader(path).tensors if x.name == "blk.1.attn_q.weight")
        found = load_file(tmp_path / "out.safetensors")["model.layers.1.self_attn.q_proj.weight"]
        scales = stored.data.reshape(-1, 34)[:, :2].view(np.float16).astype(np.float32)
        values = stored.data.reshape(-1, 34)[:, 2:].view(np.int8) * scales
        np.testing.assert_array_equal(found, values.reshape(found.shape))

    def test_layout_of_another_format_is_detected_from_the_names(self, tmp_path):
        path = make(tmp_path, "qwen3")
        run("convert", path, tmp_path / "out.safetensors", "--to", "gguf.qwen")
        assert inspect(tmp_path / "out.safetensors").layouts[0].layout == "gguf.qwen"

    def test_inspection_names_layout_and_model(self, tmp_path):
        found = inspect(make(tmp_path, "qwen2", kind="Q4_0"))
        assert found.layouts[0].layout == "gguf.qwen"
        assert found.layouts[0].evidence == "model.gguf describes such a model"
        assert (found.model, found.config_note) == ("LanguageModel", "model.gguf is understood")
        assert [each.layout for each in found.layouts] == ["gguf.qwen"]  # the names would fit gguf.llama, too
        assert found.dtypes == {"float32": len(found.specs)}
