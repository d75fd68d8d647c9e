"""The commands generate, embed, fill-mask and classify: texts in, texts out, and every bad input in one line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from attention_bridge.cli import app
from attention_bridge.pretrained.text import Settings, TextModel, classify, embed, fill_mask, generate
from attention_bridge.pretrained.text.tokenizer import Tokenizer
from parity_tests.helpers import tiny_checkpoints, tiny_tokenizers

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ bos_token }}<|assistant|>"
HEADS = {
    "masked": ("BertForMaskedLM", {}),
    "classifier": ("BertForSequenceClassification", {"id2label": {0: "good", 1: "bad"}}),
    "tokens": ("BertForTokenClassification", {"num_labels": 3}),
    "answers": ("BertForQuestionAnswering", {}),
}


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A directory of each kind of model, by name."""
    torch.manual_seed(0)
    found = {
        name: tmp_path_factory.mktemp(name) for name in (*HEADS, "encoder", "gpt2", "chat", "t5", "image")
    }
    for name, (kind, fields) in HEADS.items():
        tiny_checkpoints.bert(found[name], kind, **fields)
    tiny_checkpoints.bert(found["encoder"], "BertModel")
    tiny_checkpoints.decoder(found["gpt2"], "gpt2")
    tiny_checkpoints.decoder(found["chat"], "gpt2")
    (found["chat"] / "chat_template.jinja").write_text(TEMPLATE)
    tiny_checkpoints.encoder_decoder(found["t5"], "t5")
    config = transformers.ViTConfig(
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
    )
    tiny_checkpoints.save(found["image"], transformers.ViTModel(config))
    tiny_tokenizers.word_piece(found["image"])
    return found


class TestGenerate:
    @pytest.mark.parametrize("kind", ["gpt2", "t5"])
    def test_text_is_the_one_of_the_function(self, places, kind):
        found = invoke("generate", places[kind], "Paris is", "--max-new-tokens", 6, "--framework", "torch")
        expected = generate(TextModel.open(places[kind], "torch"), "Paris is", Settings(6))
        assert (found.exit_code, found.stdout, found.stderr) == (0, expected.text + "\n", "")

    @pytest.mark.slow
    def test_json_holds_tokens_and_seed_and_both_frameworks_agree(self, places):
        options = (
            "--max-new-tokens",
            5,
            "--temperature",
            0.9,
            "--top-k",
            30,
            "--top-p",
            0.95,
            "--seed",
            4,
            "--json",
        )
        torch, jax = (
            json.loads(invoke("generate", places["gpt2"], "Paris is", *options, "--framework", name).stdout)
            for name in ("torch", "jax")
        )
        assert (torch.pop("framework"), jax.pop("framework")) == ("torch", "jax")
        assert torch == jax
        assert torch["seed"] == 4
        assert len(torch["tokens"]) == 5

    def test_seed_is_printed_and_repeats_the_text(self, places):
        options = ("--max-new-tokens", 5, "--temperature", 0.9)
        first = invoke("generate", places["gpt2"], "Paris is", *options)
        line = first.stderr.strip()
        assert line.startswith("attention-bridge: hint: --seed ")
        again = invoke("generate", places["gpt2"], "Paris is", *options, *line.split()[-2:])
        assert again.stdout == first.stdout

    def test_chat_applies_the_template(self, places):
        options = ("--system", "Be brief.", "--max-new-tokens", 4, "--json")
        found = json.loads(invoke("generate", places["chat"], "Hi", "--chat", *options).stdout)
        given = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        reference = transformers.AutoTokenizer.from_pretrained(places["chat"])
        expected = reference.apply_chat_template(given, add_generation_prompt=True, tokenize=False)
        assert found["prompt"] == expected
        assert found["prompt_tokens"] == len(reference.encode(expected, add_special_tokens=False))

    def test_model_with_a_template_gets_a_hint_unless_quiet(self, places):
        options = (places["chat"], "Hi", "--max-new-tokens", 2)
        hint = "attention-bridge: hint: this model has a chat template; --chat applies it\n"
        assert invoke("generate", *options).stderr == hint
        assert invoke("generate", *options, "--quiet").stderr == ""
        assert invoke("generate", *options, "--chat").stderr == ""

    def test_unusable_template_matters_only_with_chat(self, places, tmp_path, expect_line):
        shutil.copytree(places["gpt2"], tmp_path, dirs_exist_ok=True)
        (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "a", "template": "x"}]}')
        assert invoke("generate", tmp_path, "Hi", "--max-new-tokens", 1).exit_code == 0
        expect_line(
            invoke("generate", tmp_path, "Hi", "--chat"), "chat templates a, but none with the name default"
        )

    def test_text_is_streamed_in_pieces(self, places, monkeypatch):
        from attention_bridge.cli import generate as _  # noqa: F401

        pieces = []
        command = sys.modules["attention_bridge.cli.generate"]
        monkeypatch.setattr(command, "_stream", pieces.append)
        invoke("generate", places["gpt2"], "Paris is", "--max-new-tokens", 8)
        assert len(pieces) > 3
        expected = generate(TextModel.open(places["gpt2"]), "Paris is", Settings(8))
        assert "".join(pieces) == expected.text


class TestEmbed:
    TEXTS = ("Attention is all you need.", "x", "Paris is the capital")
    GIVEN = tuple(part for text in TEXTS for part in ("--text", text))

    @pytest.mark.parametrize("framework", ["torch", "jax"])
    def test_each_text_gives_a_line_of_json(self, places, framework):
        found = invoke("embed", places["encoder"], *self.GIVEN, "--framework", framework)
        rows = [json.loads(line) for line in found.stdout.splitlines()]
        assert [row["text"] for row in rows] == list(self.TEXTS)
        expected = embed(TextModel.open(places["encoder"], framework), self.TEXTS)
        np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
        assert found.stderr.count("\n") == 1
        assert "no modules.json: the mean over the tokens, not normalised" in found.stderr

    def test_output_and_similarities(self, places, tmp_path):
        output = tmp_path / "vectors.npy"
        found = invoke("embed", places["encoder"], *self.GIVEN, "--output", output, "--similarity")
        vectors = np.load(output)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        lines = [line.split(maxsplit=3) for line in found.stdout.splitlines()]
        assert [line[3] for line in lines] == list(self.TEXTS)
        np.testing.assert_allclose(np.array([line[:3] for line in lines], float), unit @ unit.T, atol=6e-5)
        reply = json.loads(invoke("embed", places["encoder"], *self.GIVEN, "--similarity", "--json").stdout)
        np.testing.assert_allclose(reply["similarity"], unit @ unit.T, atol=1e-6)
        assert len(reply["embeddings"]) == 3

    def test_transformer_in_a_folder_is_found(self, places, tmp_path):
        folder = tmp_path / "0_Transformer"
        shutil.copytree(places["encoder"], folder)
        (folder / "sentence_distilbert_config.json").write_text('{"max_seq_length": 5}')
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(
            '{"word_embedding_dimension": 12, "pooling_mode_cls_token": true}'
        )
        rows = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{path[2:]}"}
            for i, path in enumerate(("0_Transformer", "1_Pooling"))
        ]
        (tmp_path / "modules.json").write_text(json.dumps(rows))
        reply = json.loads(invoke("embed", tmp_path, *self.GIVEN, "--json").stdout)
        found = [row["embedding"] for row in reply["embeddings"]]
        expected = SentenceTransformer(str(tmp_path), device="cpu").encode(list(self.TEXTS))
        assert np.abs(np.array(found) - expected).max() <= 1e-6


class TestHeads:
    def test_mask_is_filled(self, places):
        text = "[MASK] is the [MASK]."
        found = invoke("fill-mask", places["masked"], text, "--top-k", 3)
        expected = fill_mask(TextModel.open(places["masked"], "torch"), text)
        first, second = found.stdout.strip().split("\n\n")
        assert [line.split()[1] for line in first.splitlines()] == [each.text for each in expected[0][:3]]
        assert [float(line.split()[0]) for line in second.splitlines()] == pytest.approx(
            [each.probability for each in expected[1][:3]], abs=6e-5
        )
        reply = json.loads(invoke("fill-mask", places["masked"], text, "--json").stdout)
        assert [row["token"] for row in reply["masks"][0]] == [each.token for each in expected[0]]

    def test_labels_are_printed(self, places):
        texts = ("A wonderful film.", "Is it?")
        model = TextModel.open(places["classifier"], "torch")
        expected = classify(model, *texts)
        rows = [line.split() for line in invoke("classify", places["classifier"], *texts).stdout.splitlines()]
        assert [row[1] for row in rows] == [each.label for each in expected]
        assert {each.label for each in expected} == {"good", "bad"}
        assert [float(row[0]) for row in rows] == pytest.approx(
            [each.probability for each in expected], abs=6e-5
        )
        alone = json.loads(invoke("classify", places["classifier"], texts[0], "--json").stdout)["labels"]
        found = [each["probability"] for each in alone]
        assert found == pytest.approx([each.probability for each in classify(model, texts[0])], abs=1e-6)
        assert found != pytest.approx([each.probability for each in expected], abs=1e-6)

    def test_each_token_has_a_line_with_its_label(self, places):
        found = invoke("classify", places["tokens"], "Paris is it.")
        assert (
            len(found.stdout.splitlines())
            == len(Tokenizer.open(places["tokens"]).encodings(["Paris is it."])[0]) - 2
        )
        assert all(line.split()[-1].startswith("LABEL_") for line in found.stdout.splitlines())

    def test_question_gets_a_part_of_the_text(self, places):
        text = "Paris is the capital of France."
        reply = json.loads(
            invoke("classify", places["answers"], text, "--question", "Which?", "--json").stdout
        )
        found = reply["answer"]
        assert found["text"] == text[found["start"] : found["end"]]

    @pytest.mark.parametrize(
        ("name", "command", "message"),
        [
            (
                "masked",
                ("generate", "Hi"),
                "needs a decoder or an encoder-decoder, .*; use `attention-bridge",
            ),
            ("encoder", ("generate", "Hi"), "holds an encoder .*; use `attention-bridge embed`"),
            ("image", ("generate", "Hi"), "holds an image model"),
            ("image", ("embed", "--text", "Hi"), "needs a model of texts, .* holds an image model"),
            ("image", ("classify", "Hi"), "holds an image model"),
            (
                "gpt2",
                ("classify", "Hi"),
                "holds a language model; use `attention-bridge generate`|holds a decoder",
            ),
            ("t5", ("fill-mask", "Hi"), "holds an encoder-decoder; use `attention-bridge generate`"),
            ("classifier", ("fill-mask", "Hi"), "holds a classifier; use `attention-bridge classify`"),
            ("masked", ("classify", "Hi"), "holds a masked language model; use `attention-bridge fill-mask`"),
            ("masked", ("fill-mask", "Hi"), r"the text must have the mask token \[MASK\], got 'Hi'"),
            ("masked", ("fill-mask", "[MASK]", "--top-k", "0"), "--top-k must be at least 1, got 0"),
            (
                "classifier",
                ("classify", "Hi", "--question", "a"),
                "--question is only for a model for question",
            ),
            ("answers", ("classify", "Hi"), "--question must be given for a model for question answering"),
            ("tokens", ("classify", "Hi", "you"), "a second text is only for a classifier"),
        ],
    )
    def test_other_kinds_and_arguments_are_refused_in_one_line(
        self, places, name, command, message, expect_line
    ):
        expect_line(invoke(command[0], places[name], *command[1:]), message)


@pytest.fixture
def expect_line():
    """A function that expects exit code 2 and one line on stderr."""
    import re

    def check(result, message):
        assert result.exit_code == 2
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("attention-bridge: ")
        assert len(lines[0]) <= 300
        assert re.search(message, lines[0])

    return check


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("generate", "Hi", "--system", "a"), "--system needs --chat"),
        (("generate", "Hi", "--chat"), "--chat needs a chat template, and .* has none"),
        (("generate", " "), "the prompt must be a text"),
        (("generate", "Hi", "--max-new-tokens", "0"), "--max-new-tokens must be at least 1, got 0"),
        (
            ("generate", "Hi", "--max-new-tokens", "64"),
            "at most 64 tokens together, .* smaller --max-new-tokens",
        ),
        (("generate", "Hi", "--temperature", "-1"), "--temperature must be at least 0 and finite, got -1"),
        (("generate", "Hi", "--temperature", "1", "--seed", "1", "--top-k", "0"), "--top-k must be .*0"),
        (
            ("generate", "Hi", "--temperature", "1", "--seed", "1", "--top-p", "2"),
            "--top-p must be above 0 .*got 2",
        ),
        (("generate", "Hi", "--temperature", "1", "--seed", "-1"), "--seed must be at least 0"),
        (("generate", "Hi", "--framework", "tf"), "--framework must be one of torch, jax, got 'tf'"),
        (
            ("generate", "Hi", "--dtype", "int8"),
            "--dtype must be one of auto, float32, bfloat16, float16, got 'int8'",
        ),
        (("embed",), "--text must be given at least once"),
        (("embed", "--text", ""), "--text must be a text"),
        (("embed", "--text", "a", "--similarity"), "--similarity needs at least two texts"),
        (("embed", "--text", "a", "--output", "a.npz"), "--output must end in .npy, got a.npz"),
        (
            ("embed", "--text", "a", "--output", "none/a.npy"),
            "--output must be a file in a directory that exists",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(places, command, message, expect_line):
    expect_line(invoke(command[0], places["gpt2"], *command[1:]), message)


def test_missing_files_are_named_in_one_line(places, tmp_path, expect_line):
    for command in (("generate", "Hi"), ("embed", "--text", "Hi"), ("fill-mask", "Hi"), ("classify", "Hi")):
        expect_line(invoke(command[0], tmp_path / "none", *command[1:]), "does not exist: expected the dir")
        expect_line(
            invoke(command[0], tmp_path, *command[1:]), "has no tokenizer: expected tokenizer.json, or vocab"
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_take_the_dtype(places, dtype):
    reply = invoke("embed", places["encoder"], "--text", "Attention is", "--dtype", dtype, "--json")
    found = np.array(json.loads(reply.stdout)["embeddings"][0]["embedding"])
    full = embed(TextModel.open(places["encoder"]), ["Attention is"])[0]
    assert 1e-6 < np.abs(found - full).max() / np.abs(full).max() < 0.05


@pytest.mark.slow
def test_commands_need_neither_transformers_nor_the_other_framework(places):
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("transformers", "sentence_transformers", "jax" if sys.argv[2] == "torch" else "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from typer.testing import CliRunner
from attention_bridge.cli import app
options = ["--max-new-tokens", "3", "--framework", sys.argv[2]]
found = CliRunner().invoke(app, ["generate", sys.argv[1], "Paris is", *options], catch_exceptions=False)
assert found.exit_code == 0, found.output
"""
    for framework in ("torch", "jax"):
        subprocess.run([sys.executable, "-c", program, places["gpt2"], framework], check=True, timeout=120)
