"""A model that was loaded and saved again has the same names, dtypes, bytes and files."""

import json
import shutil
import warnings

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError, ConversionError, InputError
from attention_bridge.pretrained import load_pretrained, save_pretrained
from parity_tests.helpers import families, heads

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
TOKENS = np.array([[3, 5, 7, 11]], np.int32)
each_framework = pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
FILES = {
    "generation_config.json": '{"max_new_tokens": 7}',
    "tokenizer.json": '{"version": "1.0"}',
    "tokenizer_config.json": "{}",
    "vocab.txt": "[PAD]\n[CLS]\n",
    "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
    "modules.json": "[]",
}


@pytest.fixture
def given(tmp_path):
    """A directory for a checkpoint, with the files beside the weights."""
    directory = tmp_path / "given"
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return directory


def moved(model, directory):
    """Save a model whose source directory is gone; return the hashes of the files before and after."""
    before = heads.hashes(directory)
    shutil.rmtree(directory)
    save_pretrained(model, directory.parent / "back")
    return heads.hashes(directory.parent / "back"), before


@pytest.mark.parametrize("framework", ARRAYS)
def test_shards_index_dtypes_and_files_are_the_same(given, framework):
    model = heads.model("LlamaForCausalLM").to(torch.bfloat16)
    with torch.no_grad():
        model.model.norm.weight.data = (
            model.model.norm.weight.data.float()
        )  # several dtypes in one checkpoint
    model.save_pretrained(given, max_shard_size="3KB")
    assert len(list(given.glob("*.safetensors"))) > 2
    back, before = moved(load_pretrained(given, framework), given)
    assert back == before


@each_framework
def test_other_order_and_header_of_a_file_are_kept(given, framework):
    heads.model("BertForMaskedLM").save_pretrained(given)
    tensors = checkpoints.read(given)
    reordered = {name: tensors[name] for name in sorted(tensors, reverse=True)}
    reordered["bert.embeddings.position_ids"] = np.arange(11)[None]
    checkpoints.write(given / "model.safetensors", reordered, {"format": "pt", "note": "another writer"})
    back, before = moved(load_pretrained(given, framework), given)
    assert back == before


@each_framework
@pytest.mark.parametrize("sharded", [False, True])
def test_files_of_torch_save_have_the_same_names_order_dtypes_and_bytes(given, framework, sharded):
    model = heads.model("GPT2LMHeadModel").half()
    model.config.save_pretrained(given)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 11, 11, dtype=torch.uint8).tril()
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    names = list(state)
    parts = {"pytorch_model.bin": names}
    if sharded:
        parts = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
        places = {name: file for file, part in parts.items() for name in part}
        (given / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, given / file)
    save_pretrained(load_pretrained(given, framework), given.parent / "back")
    for file, part in parts.items():
        back = torch.load(given.parent / "back" / file, weights_only=True)
        assert list(back) == part
        for name in part:
            assert back[name].dtype == state[name].dtype
            assert back[name].numpy().tobytes() == state[name].numpy().tobytes()
    others = heads.hashes(given.parent / "back"), heads.hashes(given)
    assert others[0].keys() == others[1].keys()


@each_framework
def test_msgpack_has_the_same_names_dtypes_and_bytes(given, framework):
    heads.model("ViTForImageClassification").save_pretrained(given)
    tensors = checkpoints.read(given)
    (given / "model.safetensors").unlink()
    specs = {name: checkpoints.Spec(x.shape, x.dtype) for name, x in tensors.items()}
    checkpoints.save(given / "flax_model.msgpack", tensors.items(), specs)
    back, before = moved(load_pretrained(given / "flax_model.msgpack", framework), given)
    assert back == before


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefix_of_a_wrapped_model_is_kept(given, prefix):
    heads.model("BertForSequenceClassification").save_pretrained(given)
    tensors = {f"{prefix}{name}": x for name, x in checkpoints.read(given).items()}
    checkpoints.write(given / "model.safetensors", tensors, {"format": "pt"})
    back, before = moved(load_pretrained(given, "torch"), given)
    assert back == before


def test_saved_model_is_one_of_transformers(tmp_path):
    reference = heads.model("BertForSequenceClassification")
    reference.save_pretrained(tmp_path / "given")
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "[MASK]": 4, "yes": 5, "no": 6}
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "given")
    save_pretrained(load_pretrained(tmp_path / "given", "jax"), tmp_path / "back")
    shutil.rmtree(tmp_path / "given")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back")
    tokens = tokenizer("yes no", return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(model(**tokens).logits, reference(**tokens).logits, rtol=1e-5)
    for name, x in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], x), name


@each_framework
def test_changed_weights_are_saved_and_the_rest_is_kept(given, framework):
    heads.model("BertForPreTraining").save_pretrained(given)
    with pytest.warns(UserWarning, match=r"bert\.pooler\.dense"):
        model = load_pretrained(given, framework)
    if framework == "torch":
        model.backbone.embedding_norm.bias.data.add_(1.0)
    else:
        bias = model.backbone.embedding_norm.bias
        bias.set_value(bias.get_value() + 1.0)
    save_pretrained(model, given.parent / "back")
    before, after = (checkpoints.read(path) for path in (given, given.parent / "back"))
    changed = [name for name in before if before[name].tobytes() != after[name].tobytes()]
    assert list(after) == list(before)
    assert changed == ["bert.embeddings.LayerNorm.bias"]


@each_framework
def test_other_dtype_is_saved_in_that_dtype(given, framework):
    heads.model("Qwen2ForCausalLM").save_pretrained(given)
    save_pretrained(load_pretrained(given, framework, dtype="bf16"), given.parent / "back")
    before, after = (checkpoints.read(path) for path in (given, given.parent / "back"))
    assert before.keys() == after.keys()
    for name, x in after.items():
        assert x.tobytes() == before[name].astype(ml_dtypes.bfloat16).tobytes()


def test_shards_may_be_chosen(given):
    heads.model("T5ForConditionalGeneration").save_pretrained(given)
    back = given.parent / "back"
    back.mkdir()
    (back / "model.safetensors").write_bytes(b"an older checkpoint")
    save_pretrained(load_pretrained(given, "torch"), back, max_shard_bytes=2000)
    assert len(list(back.glob("model-*.safetensors"))) > 2
    assert not (back / "model.safetensors").exists()
    before, after = (checkpoints.read(path) for path in (given, back))
    assert {name: x.tobytes() for name, x in before.items()} == {
        name: x.tobytes() for name, x in after.items()
    }
    transformers.AutoModelForSeq2SeqLM.from_pretrained(back)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("LlamaForCausalLM", "lm_head.weight"),
        ("GPTNeoXForCausalLM", "lm_head.weight"),
        ("T5ForConditionalGeneration", "lm_head.weight"),
        ("BertForMaskedLM", "cls.predictions.decoder.weight"),
    ],
)
@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_output_head_of_its_own_is_used_although_the_configuration_says_tied(given, framework, name, head):
    reference = heads.model(name)
    written = reference.config.to_dict() | {"architectures": [name], "tie_word_embeddings": False}
    tensors = {key: x.contiguous() for key, x in reference.state_dict().items()}
    vocab, dim = families.VOCAB, reference.get_input_embeddings().weight.shape[1]
    tensors[head] = torch.randn(vocab, dim, generator=torch.Generator().manual_seed(3))
    given.mkdir(exist_ok=True)
    save_file({key: x.clone() for key, x in tensors.items()}, given / "model.safetensors")
    (given / "config.json").write_text(json.dumps(written, default=str))
    untied = families.numpy_of({"x": run(load_pretrained(given, framework), framework)})["x"]
    (given / "config.json").write_text(json.dumps(written | {"tie_word_embeddings": True}, default=str))
    model = load_pretrained(given, framework)
    found = families.numpy_of({"x": run(model, framework)})["x"]
    theirs = type(reference).from_pretrained(given).eval()
    tokens = torch.from_numpy(TOKENS).long()
    target = {"decoder_input_ids": tokens} if name.startswith("T5") else {}
    with torch.no_grad():
        expected = theirs(tokens, **target).logits.numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    if not target:  # T5's configuration says by the tied embeddings whether the logits are scaled
        assert np.array_equal(found, untied)
    back, before = moved(model, given)
    assert back == before


def run(model, framework):
    tokens = ARRAYS[framework](TOKENS)
    given = (tokens, tokens) if type(model).__name__ == "RelativeEncoderDecoder" else (tokens,)
    return model(*given).logits


def test_task_may_be_chosen_and_must_have_tensors(given):
    heads.model("BertForPreTraining").save_pretrained(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = load_pretrained(given, "torch", task="feature-extraction")
        classes = load_pretrained(given, "torch", task="text-classification")
    assert type(encoder).__name__ == "Encoder"
    assert encoder.config.pooler
    assert classes.config.head.name == "SequenceClassifier"
    with pytest.raises(
        CheckpointError, match=r"^task must be one whose tensors the checkpoint has, .*, got quest"
    ):
        load_pretrained(given, "torch", task="question-answering")
    with pytest.raises(InputError, match=r"^task must be None or one of feature-extraction, .* got 'masked'"):
        load_pretrained(given, "torch", task="masked")


@each_framework
def test_body_without_a_head_has_no_logits_by_name(given, framework):
    heads.model("LlamaModel").save_pretrained(given)
    model = load_pretrained(given, framework)
    found = model(ARRAYS[framework](np.array([[3, 5, 7]], np.int32)))
    assert found.last_hidden_state.shape == (1, 3, 20)
    with pytest.raises(AttributeError, match="this model has no output head and so no logits"):
        found.logits  # noqa: B018


def test_tensor_that_no_rule_understands_is_a_fault(given):
    heads.model("BertForMaskedLM").save_pretrained(given)
    tensors = checkpoints.read(given)
    checkpoints.write(given / "model.safetensors", tensors | {"bert.encoder.twist.weight": np.ones(3)})
    with pytest.raises(ConversionError, match=r"1 unexpected\. The first: bert\.encoder\.twist\.weight"):
        load_pretrained(given, "torch")


@each_framework
def test_failed_saving_leaves_the_directory_as_it_was(given, framework, monkeypatch):
    heads.model("BertModel").save_pretrained(given)
    model = load_pretrained(given, framework)
    before = heads.hashes(given)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attention_bridge.checkpoints.safetensors_file.Open.put", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(model, given)
    assert heads.hashes(given) == before


@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_file_with_only_the_copy_of_the_embedding_loads(given, framework):
    """Programs that write shared tensors once may keep either name."""
    reference = heads.model("OpenAIGPTLMHeadModel")
    reference.save_pretrained(given)
    tensors = load_file(given / "model.safetensors")
    name = "transformer.tokens_embed.weight"
    tensors["lm_head.weight"] = tensors.pop(name, tensors.get("lm_head.weight"))
    save_file(tensors, given / "model.safetensors")
    model = load_pretrained(given, framework)
    with torch.no_grad():
        expected = reference(torch.from_numpy(TOKENS).long()).logits.numpy()
    found = families.numpy_of({"x": model(ARRAYS[framework](TOKENS)).logits})["x"]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    back, before = moved(model, given)
    assert back == before


@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_untied_head_of_gpt2_is_used(given, framework):
    case = heads.WRITTEN["GPT2LMHeadModel"].case
    config = case.config(**case.fields, tie_word_embeddings=False)
    torch.manual_seed(2)
    reference = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0.0, 0.4)
        expected = reference(torch.from_numpy(TOKENS).long()).logits.numpy()
    reference.save_pretrained(given)
    model = load_pretrained(given, framework)
    found = model(ARRAYS[framework](TOKENS)).logits
    assert np.abs(families.numpy_of({"x": found})["x"] - expected).max() <= 1e-5 * np.abs(expected).max()
    back, before = moved(model, given)
    assert back == before


@pytest.mark.parametrize("tied", [True, False])
def test_bias_of_the_output_layer_is_used_where_it_differs_from_the_head_s(given, tied):
    case = heads.WRITTEN["BertForMaskedLM"].case
    reference = transformers.BertForMaskedLM(case.config(**case.fields, tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0.0, 0.4)
    reference.save_pretrained(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_pretrained(given, "torch")
    tokens = torch.from_numpy(TOKENS).long()
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, reference(tokens).logits, atol=1e-5)
    back, before = moved(model, given)
    assert back == before


def test_missing_head_of_the_class_that_wrote_the_file_is_warned_of(given):
    heads.model("LlamaForCausalLM").save_pretrained(given)
    tensors = checkpoints.read(given)
    del tensors["lm_head.weight"]
    checkpoints.write(given / "model.safetensors", tensors)
    with pytest.warns(UserWarning, match="was written by LlamaForCausalLM, but has no tensors of its head"):
        load_pretrained(given, "torch")


def test_stray_head_does_not_change_a_model_of_causal_language(given):
    heads.model("LlamaForCausalLM").save_pretrained(given)
    tensors = checkpoints.read(given)
    checkpoints.write(given / "model.safetensors", tensors | {"score.weight": np.ones((2, 20), np.float32)})
    with pytest.warns(UserWarning, match=r"does not use: score\.weight"):
        assert type(load_pretrained(given, "torch")).__name__ == "LanguageModel"


def test_configuration_names_the_dtype_that_is_written(given):
    heads.model("LlamaForCausalLM").save_pretrained(given)
    save_pretrained(load_pretrained(given, "torch").half(), given.parent / "back")
    assert json.loads((given.parent / "back" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler
def test_wrapped_model_is_saved(given):
    heads.model("BertModel").save_pretrained(given)
    model = torch.nn.DataParallel(torch.compile(load_pretrained(given, "torch")))
    back, before = moved(model, given)
    assert back == before


def test_names_that_begin_with_an_underscore_and_null_fields_are_harmless(given):
    heads.model("LlamaForCausalLM").save_pretrained(given)
    config = json.loads((given / "config.json").read_text())
    more = {"_attn_implementation_autoset": True, "quantization": None, "unsloth_version": "1"}
    (given / "config.json").write_text(json.dumps(config | more))
    load_pretrained(given, "torch")


@pytest.mark.parametrize("wrong", ["1KB", 0, 2.5, True])
def test_sizes_of_shards_must_be_whole_numbers(given, wrong):
    heads.model("BertModel").save_pretrained(given)
    with pytest.raises(InputError, match="max_shard_bytes must be a positive whole number, or None, got"):
        save_pretrained(load_pretrained(given, "torch"), given, max_shard_bytes=wrong)
