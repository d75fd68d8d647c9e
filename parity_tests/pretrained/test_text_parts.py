"""Text models of multimodal checkpoints: the other tensors are kept; older names and flat configurations are read."""

import json

import pytest
from safetensors.numpy import load_file, save_file

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.families import read_config
from parity_tests.helpers import families, heads
from parity_tests.helpers.family_cases.multimodal import CASES

each_case = pytest.mark.parametrize("name", CASES)


def written(name, directory):
    families.model(CASES[name]).save_pretrained(directory)
    return json.loads((directory / "config.json").read_text())


@each_case
def test_whole_checkpoint_is_written_again_and_one_line_names_the_rest(name, tmp_path):
    written(name, tmp_path / "given")
    with pytest.warns(
        UserWarning, match="has tensors that this LanguageModel does not use: .*save_pretrained"
    ) as found:
        model = load_pretrained(tmp_path / "given", "torch")
    assert len(found) == 1
    assert all("language_model" not in each for each in model.origin.unused())
    save_pretrained(model, tmp_path / "back")
    assert heads.hashes(tmp_path / "back") == heads.hashes(tmp_path / "given")


@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl, windows, one key"])
def test_older_names_of_tensors_give_the_same_model(name, tmp_path):
    """Files of 2024 have the text model at `language_model.model` (LLaVA) or `model` (Qwen)."""
    written(name, tmp_path)
    before = load_pretrained(tmp_path, "torch").state_dict()
    path = tmp_path / "model.safetensors"
    start = ("model.language_model.", "language_model.model." if name == "llava" else "model.")
    save_file({_older(each, *start): x for each, x in load_file(path).items()}, path, {"format": "pt"})
    after = load_pretrained(tmp_path, "torch").state_dict()
    assert before.keys() == after.keys()
    assert all((before[each] == after[each]).all() for each in before)


def _older(name, new, old):
    if name.startswith(new):
        return old + name.removeprefix(new)
    return name.removeprefix("model.") if "language" not in name else name


def test_flat_configuration_gives_the_same_model(tmp_path):
    """Qwen's published files have the fields of the text model beside the fields of the images."""
    given = written("qwen2_5_vl, windows, one key", tmp_path)
    text = {name: x for name, x in given["text_config"].items() if name != "model_type"}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": [1, 1, 1]}
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    flat = {name: x for name, x in given.items() if name != "text_config"}
    names = load_file(tmp_path / "model.safetensors")
    assert read_config({**text, **flat}, names).model == read_config(given, names).model


def test_unknown_text_model_is_refused():
    given = {"model_type": "llava", "text_config": {"model_type": "bert"}}
    with pytest.raises(
        CheckpointError, match="must have a model_type llama or mistral or qwen2 or qwen3, got 'bert'"
    ):
        read_config(given, [])


@pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
def test_text_model_of_gemma3n_is_read_inside_the_multimodal_model(tmp_path):
    """Its images need a library of their own, so the test writes the multimodal file."""
    for name in ("text", "whole"):
        (tmp_path / name).mkdir()
    families.model(families.CASES["gemma3n"]).save_pretrained(tmp_path / "text")
    given = json.loads((tmp_path / "text" / "config.json").read_text())
    tensors = load_file(tmp_path / "text" / "model.safetensors")
    whole = {name.replace("model.", "model.language_model.", 1): x for name, x in tensors.items()}
    others = ("vision_tower", "audio_tower", "embed_vision", "embed_audio")
    whole |= {f"model.{name}.weight": tensors["model.norm.weight"] for name in others}
    config = {
        "model_type": "gemma3n",
        "text_config": given,
        "architectures": ["Gemma3nForConditionalGeneration"],
    }
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    save_file(whole, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    alone, inside = (load_pretrained(tmp_path / name, "torch") for name in ("text", "whole"))
    assert inside.config == alone.config
    before, after = alone.state_dict(), inside.state_dict()
    assert before.keys() == after.keys()
    assert all((before[each] == after[each]).all() for each in before)
    save_pretrained(inside, tmp_path / "back")
    assert heads.hashes(tmp_path / "back") == heads.hashes(tmp_path / "whole")
