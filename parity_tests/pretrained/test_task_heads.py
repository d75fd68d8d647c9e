"""Checkpoints of every class of transformers: the same outputs in both mirrors, and the same bytes when saved."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights import convert
from parity_tests.helpers import families, heads, saved_classes
from parity_tests.helpers.family_proof import deviation, limit, roundings
from parity_tests.helpers.saved_classes import changed_files
from parity_tests.helpers.share import share

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
QUICK = {
    "torch": (
        "BertForSequenceClassification",
        "BertForPreTraining",
        "RobertaForSequenceClassification",
        "DistilBertForQuestionAnswering",
        "AlbertForMaskedLM",
        "GPT2ForTokenClassification",
        "LlamaModel",
        "LlamaForQuestionAnswering",
        "T5EncoderModel",
        "BartForCausalLM",
        "CLIPTextModelWithProjection",
        "CLIPVisionModel",
        "Gemma3ForConditionalGeneration",
    ),
    "jax": ("BertForMaskedLM", "T5EncoderModel", "CLIPTextModelWithProjection"),
}


# The commit chooses the classes that are tried in JAX, where each compiles separately.
CHOSEN = {"torch": {*heads.WRITTEN}, "jax": {*QUICK["jax"], *share(heads.WRITTEN, 4)}}


def each_class():
    """Parameters for each class and framework; those outside `QUICK` are slow."""
    return [
        pytest.param(name, framework, marks=() if name in QUICK[framework] else pytest.mark.slow)
        for name in heads.WRITTEN
        for framework in ARRAYS
        if name in CHOSEN[framework]
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK["torch"] else pytest.mark.slow) for name in heads.WRITTEN],
)
@pytest.mark.parametrize("layout", ["torch_attention", "jax_attention"])
def test_configuration_of_a_class_describes_the_converted_tensors_too(name, layout, tmp_path):
    """Tensors in a mirror's names convert back to the file's with the same configuration."""
    heads.model(name).save_pretrained(tmp_path)
    fields, given = json.loads((tmp_path / "config.json").read_text()), checkpoints.read(tmp_path)
    reading = read_config(fields, Tensors(given, given.__getitem__))
    converted, report = convert(given, reading.layout, layout, reading.axes)
    again = read_config(fields, Tensors(converted, converted.__getitem__))
    assert again.model == reading.model
    back, _ = convert(converted, layout, again.layout, again.axes)
    spelled = {reading.layout.canonical(each): x for each, x in given.items()}
    left = {reading.layout.canonical(note.name) for note in report.ignored}
    assert back.keys() == spelled.keys() - left
    assert all(back[each].tobytes() == spelled[each].tobytes() for each in back)


@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize(("name", "framework"), each_class())
def test_checkpoint_of_each_class_comes_in_and_goes_out_whole(tmp_path, name, framework):
    reference = heads.model(name)
    reference.save_pretrained(tmp_path / "given")
    (tmp_path / "given" / "tokenizer.json").write_text('{"version": "1.0"}\n')
    model = load_pretrained(tmp_path / "given", framework)
    save_pretrained(model, tmp_path / "back")
    assert heads.hashes(tmp_path / "back") == heads.hashes(tmp_path / "given")
    if name in heads.WITHOUT_HEAD:
        assert model.origin.unused()
        return
    bound = families.bound(reference)
    expected = heads.reference(name, reference.double())
    found = heads.ours(name, model, ARRAYS[framework], set(expected))
    for part, x in expected.items():
        worst = deviation(found[part], x)
        rounded = (heads.reference(name, each)[part] for each in roundings(reference))
        allowed = limit(worst, x, bound, rounded)
        assert worst <= allowed, part


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize("name", sorted(share(heads.WRITTEN, 4)))
def test_files_of_a_class_in_bfloat16_are_the_same(name):
    """The commit chooses the classes; `make prove-families` tries all of them."""
    assert not [*changed_files(name, torch.bfloat16, ("torch", "jax"))]


def test_changed_file_is_found(monkeypatch):
    save = save_pretrained
    monkeypatch.setattr(saved_classes, "save_pretrained", lambda model, place: save(model.half(), place))
    found = [*changed_files("BertModel", torch.float32, ("torch",))]
    assert "torch model.safetensors" in found


@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_encoder_of_whisper_alone_encodes_and_has_no_logits(tmp_path, framework):
    reference = heads.model("WhisperForAudioClassification")
    reference.save_pretrained(tmp_path)
    model, bound = load_pretrained(tmp_path, framework), families.bound(reference)
    frames = families.inputs(heads.WRITTEN["WhisperModel"].case)["frames"].astype(np.float32)
    with torch.no_grad():
        sound = torch.from_numpy(frames).transpose(1, 2).double()
        expected = reference.double().encoder(sound).last_hidden_state.numpy()
    array = ARRAYS[framework]
    found = families.numpy_of({"x": model.encode(array(frames)).output})["x"]
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()
    with pytest.raises(ValueError, match="this model has no decoder and so no logits; call its encode"):
        model(array(frames), array(np.array([[1], [2]], np.int32)))


@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("pooling", ["bos", "mean", "late"])
def test_classifier_of_eurobert_pools_as_configured(tmp_path, framework, pooling):
    written = heads.WRITTEN["EuroBertForSequenceClassification"]
    made = written.case.config(**written.case.fields, classifier_pooling=pooling, num_labels=4)
    reference = families.model(replace(written.case, model=written.kind, config=lambda: made, fields={}))
    reference.save_pretrained(tmp_path)
    expected = heads.reference("EuroBertForSequenceClassification", reference.double())["logits"]
    given = {name: ARRAYS[framework](x) for name, x in families.inputs(written.case).items()}
    model = load_pretrained(tmp_path, framework)
    found = families.numpy_of({"x": model(given["tokens"], given["there"]).logits})["x"]
    assert deviation(found, expected) <= families.bound(reference)


@pytest.mark.parametrize("bias", [False, True])
def test_tied_head_of_eurobert_is_there_if_its_class_or_the_task_names_it(tmp_path, bias):
    """A tied output layer has no tensors of its own, unless it has a bias."""
    case = families.CASES["eurobert, tied"]
    families.model(replace(case, fields={**case.fields, "mlp_bias": bias})).save_pretrained(tmp_path)
    fields, given = json.loads((tmp_path / "config.json").read_text()), checkpoints.read(tmp_path)
    tensors = Tensors(given, given.__getitem__)

    def head(task=None, **changed):
        reading = read_config({**fields, **changed}, tensors, task=task)
        return reading.model.arguments["config"].arguments["head"].name

    base = "LinearLanguageHead" if bias else "NoHead"
    assert head() == "LinearLanguageHead"
    assert head(architectures=["EuroBertModel"]) == base
    assert head("fill-mask", architectures=["EuroBertModel"]) == "LinearLanguageHead"
    if not bias:
        with pytest.raises(CheckpointError, match="task must be one whose tensors the checkpoint has"):
            head("fill-mask", tie_word_embeddings=False)
