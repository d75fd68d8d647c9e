"""Loading and saving whole models, in either framework and any dtype, with one-sentence errors."""

import json
import re
from types import SimpleNamespace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import jax_attention
import torch_attention
from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError, ConversionError, InputError
from attention_bridge.pretrained import load_pretrained, read_pretrained, save_pretrained
from attention_bridge.pretrained.conversion import convert_checkpoint
from attention_bridge.pretrained.families import FAMILIES, read_config
from attention_bridge.pretrained.source import Source
from parity_tests.helpers import families, heads

MIRRORS = {
    "torch": SimpleNamespace(package=torch_attention, array=torch.from_numpy),
    "jax": SimpleNamespace(package=jax_attention, array=jnp.asarray),
}
LLAMA = families.CASES["llama"]
U = 2.0**-24


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A directory with a tiny Llama."""
    directory = tmp_path_factory.mktemp("llama")
    families.model(LLAMA).save_pretrained(directory)
    return directory


@pytest.fixture
def copied(llama, tmp_path):
    """An editable copy of it: its tensors, its configuration, and a function that writes both."""
    tensors = checkpoints.read(llama)
    fields = json.loads((llama / "config.json").read_text())

    def write(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**fields, **changes}))
        checkpoints.write(tmp_path / "model.safetensors", tensors)
        return tmp_path

    return SimpleNamespace(tensors=tensors, fields=fields, write=write)


@pytest.mark.parametrize("framework", MIRRORS)
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"eos_token_id": [3, 5], "pad_token_id": 0, "bos_token_id": 1}, ((3, 5), 0, 1)),
        ({"eos_token_id": 2, "pad_token_id": None, "bos_token_id": None}, ((2,), None, None)),
        ({"eos_token_id": None, "pad_token_id": -1, "bos_token_id": 10**6}, ((), None, None)),
    ],
)
def test_configuration_has_the_special_tokens(copied, tmp_path, framework, fields, expected):
    model = load_pretrained(copied.write(**fields), framework)
    special = model.config.special_tokens
    assert (special.eos, special.pad, special.bos) == expected
    save_pretrained(model, tmp_path / "own")
    assert load_pretrained(tmp_path / "own", framework).config == model.config
    save_pretrained(model, tmp_path / "other", config={**copied.fields, "eos_token_id": 7})
    assert load_pretrained(tmp_path / "other", framework).config.special_tokens.eos == (7,)


def logits(model, mirror, tokens=None):
    tokens = families.inputs(LLAMA)["tokens"] if tokens is None else tokens
    return families.numpy_of({"x": model(mirror.array(tokens)).output})["x"]


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("reads", "writes"), [("jax", "torch"), ("torch", "jax")])
def test_model_moves_between_frameworks_through_a_directory(llama, tmp_path, reads, writes):
    model = load_pretrained(llama, writes)
    save_pretrained(model, tmp_path / "own")
    other = load_pretrained(tmp_path / "own", reads)
    assert other.config.to_dict() == model.config.to_dict()
    bound = 4 * U * np.sqrt(2 * (20 * 4 + 24 + 14) + 20)
    assert error(logits(other, MIRRORS[reads]), logits(model, MIRRORS[writes])) <= bound
    save_pretrained(other, tmp_path / "theirs", config=llama)
    given, back = (checkpoints.read(path) for path in (llama, tmp_path / "theirs"))
    assert given.keys() == back.keys()
    assert all(given[name].tobytes() == back[name].tobytes() for name in given)


@pytest.mark.parametrize("framework", MIRRORS)
def test_weights_keep_their_dtype_or_take_the_requested_one(copied, framework):
    copied.tensors.update({n: x.astype(ml_dtypes.bfloat16) for n, x in copied.tensors.items()})
    directory = copied.write()
    kept = load_pretrained(directory, framework)
    wide = load_pretrained(directory, framework, dtype="float32")
    table = {"torch": lambda m: m.token_embedding.weight, "jax": lambda m: m.token_embedding.embedding[...]}
    assert str(table[framework](kept).dtype).endswith("bfloat16")
    assert str(table[framework](wide).dtype).endswith("float32")


@pytest.mark.parametrize(
    "dtype",
    ["bf16", "bfloat16", torch.bfloat16, jnp.bfloat16, ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)],
)
def test_dtype_may_be_a_name_or_a_dtype_of_any_library(llama, dtype):
    assert {x.dtype.name for x in read_pretrained(llama, dtype=dtype).weights.values()} == {"bfloat16"}


def test_dtype_auto_keeps_the_dtype(llama):
    assert {x.dtype.name for x in read_pretrained(llama, dtype="auto").weights.values()} == {"float32"}


@pytest.mark.parametrize("dtype", ["int8", "float3", torch.int32, np.int64, 7, "auto "])
def test_dtype_that_is_not_floating_point_raises(llama, dtype):
    with pytest.raises(InputError, match=r"^dtype must be auto, float32, bfloat16, .*, got "):
        read_pretrained(llama, dtype=dtype)


def test_fields_may_be_ignored_changed_and_completed(copied):
    directory = copied.write(attention_twist=3, rms_norm_eps=1e-3, model_type=None, architectures=None)
    with pytest.raises(CheckpointError, match="must have a model_type of"):
        read_pretrained(directory)
    read = read_pretrained(
        directory, model_type="llama", ignore=("attention_twist",), config={"rms_norm_eps": 1e-5}
    )
    assert read.reading.model.arguments["config"].arguments["norm"].arguments["eps"] == 1e-5


def test_ignored_fields_must_not_be_a_text(llama):
    with pytest.raises(InputError, match="ignore must be a list or tuple of names, got 'rope_theta'"):
        read_pretrained(llama, ignore="rope_theta")


def test_change_that_is_not_understood_raises_where_a_configuration_beside_would_not(copied):
    directory = copied.write()
    with pytest.raises(CheckpointError, match="hidden_size"):
        Source.open(directory, changes={"hidden_size": -1})
    (directory / "config.json").write_text('{"model_type": "mamba"}')
    with Source.open(directory) as source:
        assert source.reading is None
        with pytest.raises(InputError, match=r"config must be given to Source\.open"):
            convert_checkpoint(source, directory / "x.npz", "hf.llama", "jax_attention", config={})


def test_configuration_may_be_given_whole(copied):
    directory = copied.write()
    fields = json.loads((directory / "config.json").read_text())
    expected = read_pretrained(directory).reading
    (directory / "config.json").unlink()
    assert read_pretrained(directory, config=fields).reading == expected


def test_file_is_read_as_its_directory(llama):
    read, expected = read_pretrained(llama / "model.safetensors"), read_pretrained(llama)
    assert read.reading == expected.reading
    assert all(np.array_equal(read.weights[name], x) for name, x in expected.weights.items())


@pytest.mark.parametrize("name", families.CASES)
def test_model_type_follows_from_the_architecture(name):
    case = families.CASES[name]
    fields = json.loads(json.dumps(case.config(**case.fields).to_dict(), default=str))
    architecture = {"architectures": [case.model.__name__]}
    expected = read_config({**fields, **architecture})
    assert read_config({**fields, **architecture, "model_type": None}).model == expected.model


def test_mixed_dtypes_become_the_widest(copied):
    copied.tensors["model.norm.weight"] = copied.tensors["model.norm.weight"].astype(np.float16)
    weights = read_pretrained(copied.write()).weights
    assert {x.dtype.name for x in weights.values()} == {"float32"}


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("llama", "torch"),
        pytest.param("llama", "jax", marks=pytest.mark.slow),
        ("bloom", "torch"),
        ("deepseek_v3", "torch"),
        ("gemma2", "torch"),
        pytest.param("deepseek_v3", "jax", marks=pytest.mark.slow),
        pytest.param("gpt_neox", "jax", marks=pytest.mark.slow),
    ],
)
def test_language_model_decodes_as_it_computes_the_whole_text(tmp_path, name, framework):
    case, mirror = families.CASES[name], MIRRORS[framework]
    reference = families.model(case)
    reference.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path, framework)
    tokens = families.inputs(case)["tokens"]
    expected = logits(model, mirror, tokens)
    caches, found = (mirror.package.GrowingCache(),) * len(model.layers), []
    for part in np.split(tokens, [3, 4], axis=1):
        read = model(mirror.array(part.copy()), caches=caches, need_weights=True)
        caches = read.caches
        found.append(families.numpy_of({"x": read.logits})["x"])
        assert len(read.attentions) == len(model.layers)
    assert error(np.concatenate(found, axis=1), expected) <= families.bound(reference)


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_encoder_decoder_decodes_as_it_computes_the_whole_text(tmp_path, name):
    case = families.CASES[name]
    reference = families.model(case)
    reference.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path, "torch")
    given = families.inputs(case)
    source = torch.from_numpy(given["frames"].astype(np.float32) if "frames" in given else given["tokens"])
    target = torch.from_numpy(given["target"])
    whole = model(source, target, need_weights=True)
    memory = model.encode(source).output
    caches, found = (torch_attention.GrowingCache(),) * len(model.decoder_layers), []
    for part in (target[:, :2], target[:, 2:]):
        written = model.decode(part, memory, caches=caches)
        caches = written.caches
        found.append(written.output)
    assert error(torch.cat(found, 1).detach().numpy(), whole.output.detach().numpy()) <= families.bound(
        reference
    )
    assert len(whole.encoder_weights) == len(model.encoder_layers)
    assert len(whole.self_weights) == len(whole.cross_weights) == len(model.decoder_layers)


REFUSALS = {
    "another framework": (
        lambda c: load_pretrained(c.write(), "keras"),
        InputError,
        "torch or jax, got 'keras'",
    ),
    "no configuration": (
        lambda c: (c.write() / "config.json").unlink() or load_pretrained(c.write().parent / "x", "torch"),
        CheckpointError,
        "does not exist",
    ),
    "a family that is not known": (
        lambda c: load_pretrained(c.write(model_type="mamba"), "torch"),
        CheckpointError,
        "must have a model_type of",
    ),
    "a field that is not understood": (
        lambda c: load_pretrained(c.write(attention_twist=3), "torch"),
        CheckpointError,
        "not understood: attention_twist",
    ),
    "quantised weights": (
        lambda c: load_pretrained(c.write(quantization_config={"bits": 4}), "torch"),
        CheckpointError,
        "must have a quantization_config with a quant_method that is dequantised",
    ),
    "a scaling of positions that is not known": (
        lambda c: load_pretrained(c.write(rope_parameters={"rope_type": "twisted", "factor": 2.0}), "torch"),
        CheckpointError,
        "must have a rope_type default, linear, dynamic, llama3, yarn, longrope, proportional, got 'twisted'",
    ),
    "too few factors of frequencies": (
        lambda c: load_pretrained(
            c.write(rope_parameters={"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
            "torch",
        ),
        CheckpointError,
        "numbers in short_factor, one per frequency, got",
    ),
    "a rope parameter that is not known": (
        lambda c: load_pretrained(c.write(rope_parameters={"rope_type": "default", "twist": 2.0}), "torch"),
        CheckpointError,
        "rope parameters that are not understood: twist",
    ),
    "a size that is no number": (
        lambda c: load_pretrained(c.write(hidden_size="big"), "torch"),
        CheckpointError,
        "positive whole number hidden_size, got 'big'",
    ),
    "heads that do not divide": (
        lambda c: load_pretrained(c.write(num_key_value_heads=3), "torch"),
        CheckpointError,
        "num_attention_heads that num_key_value_heads divides, got 4 and 3",
    ),
    "another number of heads than the weights have": (
        lambda c: load_pretrained(c.write(num_attention_heads=2), "torch"),
        ConversionError,
        "wrong shape",
    ),
    "more layers than the weights have": (
        lambda c: load_pretrained(c.write(num_hidden_layers=3), "torch"),
        ConversionError,
        "9 missing",
    ),
    "fewer layers than the weights have": (
        lambda c: load_pretrained(c.write(num_hidden_layers=1), "torch"),
        ConversionError,
        "9 unexpected",
    ),
    "no such name and no network": (
        lambda c: load_pretrained("no-one/nothing", "torch"),
        CheckpointError,
        "no-one/nothing is not a local directory, and the Hugging Face Hub does not provide it",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_unreadable_checkpoint_raises(copied, what, monkeypatch):
    call, kind, message = REFUSALS[what]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(kind, match=re.escape(message)):
        call(copied)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_name_is_downloaded_with_the_weights_it_has(copied, tmp_path, monkeypatch, kind):
    directory, asked = copied.write(), []
    if kind == "bin":
        (directory / "model.safetensors").unlink()
        torch.save(
            {n: torch.from_numpy(x) for n, x in copied.tensors.items()}, directory / "pytorch_model.bin"
        )

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    weights = read_pretrained("someone/llama", revision="main").weights
    assert (
        weights["token_embedding.weight"].tobytes() == copied.tensors["model.embed_tokens.weight"].tobytes()
    )
    assert asked[-1][:2] == ("someone/llama", "main")
    assert any(pattern.endswith(f"model*.{kind}") for pattern in asked[-1][2])
    read_pretrained("someone/llama@v2")
    assert asked[-1][:2] == ("someone/llama", "v2")
    with pytest.raises(
        InputError, match="revision must be given once, got 'someone/llama@v2' and revision='v3'"
    ):
        read_pretrained("someone/llama@v2", revision="v3")


def test_configuration_of_another_model_raises_and_writes_nothing(llama, copied, tmp_path):
    model = load_pretrained(llama, "torch")
    with pytest.raises(InputError, match=r"this LanguageModel, but has layers.0.ffn.ffn_dim=21, not 20"):
        save_pretrained(model, tmp_path / "new", config={**copied.fields, "intermediate_size": 21})
    assert not (tmp_path / "new").exists()


# Types that share the reader of a type with a case; transformers does not have Kimi K2, and Gemma 3n needs timm.
OF_NO_CASE = (
    "gemma3n",
    "kimi_k2",
    "llava_next",
    "qwen2_5_vl_text",
    "qwen2_vl_text",
    "qwen3_5_moe",
    "qwen3_vl_text",
)


def test_each_family_reads_the_configuration_of_its_case():
    read = {each.kind.config_class.model_type for each in heads.WRITTEN.values()}
    read |= {case.config(**case.fields).model_type for case in families.CASES.values()}
    others = {"attention_bridge", "meta.llama", "timm.vit", "gguf.llama", "gguf.qwen2", "gguf.qwen3"}
    others |= set(OF_NO_CASE)
    assert read | others | {"RefinedWeb", "RefinedWebModel"} == FAMILIES.keys()


@pytest.mark.parametrize("name", families.CASES)
def test_unknown_field_raises_in_every_family(name):
    """Every field of a configuration is read or known to be harmless: a new one raises in each family."""
    case = families.CASES[name]
    fields = json.loads(json.dumps(case.config(**case.fields).to_dict(), default=str))
    read_config(fields, ["classifier.weight"])
    with pytest.raises(CheckpointError, match="new_arithmetic"):
        read_config({**fields, "new_arithmetic": 1.0}, ["classifier.weight"])
