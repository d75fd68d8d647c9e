"""Small tokenizers of each class, trained on a few sentences and saved as the class saves them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "Attention is all you need, said the Übersetzer; 1234 tokens aren't enough!",
    "The café's naïve owner paid 99 euros for a résumé.",
    "Paris is the capital of France, and 東京 the one of Japan.",
    "def f(x):\n    return x  # spaces, tabs\tand newlines",
]
TEXTS = [
    "Attention is all you need.",
    "  Leading spaces, CAFÉ au lait, 東京 2024 😀",
    "the naïve\n\nowner's don't re\u0301sume\u0301",
    "x  12345's",
]
PAIRS = ["Is it?", "", "Paris, of course: 1234567", "A second text that is longer than the first one."]


def write(directory: Path, model_type: str, *, architecture: str | None = None, **fields: Any) -> None:
    """Write `config.json`, and `tokenizer_config.json` with the fields if there are any."""
    config = {"model_type": model_type, **({"architectures": [architecture]} if architecture else {})}
    (directory / "config.json").write_text(json.dumps(config))
    if fields:
        (directory / "tokenizer_config.json").write_text(json.dumps(fields))


def word_piece(directory: Path, *, lowercase: bool = True) -> Tokenizer:
    """A WordPiece vocabulary as BERT's, of characters, word ends and short words, written as `vocab.txt`.

    It is not trained: the trainer orders equally frequent pieces by chance.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [tokenizer.normalizer.normalize_str(sentence) for sentence in SENTENCES]
    words = {word for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    pieces = {char for word in words for char in word} | {f"##{char}" for word in words for char in word[1:]}
    pieces |= {f"##{word[-2:]}" for word in words if len(word) > 2} | {w for w in words if len(w) < 6}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    numbers = {piece: number for number, piece in enumerate(special + sorted(pieces))}
    tokenizer.model = models.WordPiece(numbers, unk_token="[UNK]")
    tokenizer.add_special_tokens(special)
    tokenizer.model.save(str(directory))
    return tokenizer


def byte_pairs(directory: Path, special: list[str]) -> Tokenizer:
    """Train a byte-level BPE, and write `vocab.json` and `merges.txt`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.model.save(str(directory))
    return tokenizer


def llama(directory: Path) -> Tokenizer:
    """Train a BPE with byte fallback as Llama 2's, in the form of `tokenizer.json` on the Hugging Face Hub."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(spaces)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=420, special_tokens=special))
    tokenizer.post_processor = _with_bos("<s>", 1)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # the bytes are tokens as others
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.from_str(json.dumps(content))


def llama3(directory: Path) -> Tokenizer:
    """Train a byte-level BPE with a first token and a chat's tokens, as Llama 3's."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer = byte_pairs(directory, special)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _with_bos(special[0], 0)]
    )
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


def unigram(directory: Path, *, end: bool = False) -> Tokenizer:
    """Train a Unigram as ALBERT's, or with `end` as T5's."""
    special = ["<pad>", "</s>", "<unk>"] if end else ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.Unigram())
    if not end:
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.Replace("``", '"'),
                normalizers.Replace("''", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
            ]
        )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=110, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if end:
        ends = {"single": "$A </s>", "pair": "$A </s> $B </s>", "special_tokens": [("</s>", 1)]}
    else:
        ends = {
            "single": "[CLS]:0 $A:0 [SEP]:0",
            "pair": "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            "special_tokens": [("[CLS]", 2), ("[SEP]", 3)],
        }
    tokenizer.post_processor = processors.TemplateProcessing(**ends)
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


def _with_bos(bos: str, number: int) -> Any:
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
    )
