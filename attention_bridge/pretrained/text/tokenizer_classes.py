"""Rules of each class of tokenizers that `vocab.txt` and `merges.txt` do not hold.

The classes of transformers apply the same rules to a `tokenizer.json`, where `tokenizer_config.json` has precedence:
`do_lower_case` of BERT, `add_prefix_space` of GPT-2, and the prefix space of Llama.
"""

from __future__ import annotations

from typing import Any

from attention_bridge.pretrained.text.special_words import SpecialWords
from attention_bridge.pretrained.text.tokenizer_files import BYTE_LEVEL, WORD_PIECE, TokenizerFiles

# Qwen's words: contractions, letters, single digits, punctuation, line ends, spaces.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def adapt(backend: Any, files: TokenizerFiles, words: SpecialWords) -> None:
    """Set the rules of the tokenizer's class.

    Args:
        backend: the `tokenizers.Tokenizer`, which holds the special tokens.
        files: settings and class of the tokenizer.
        words: special tokens by name.
    """
    model = type(backend.model).__name__
    if files.kind in WORD_PIECE and model == "WordPiece":
        _word_piece(backend, files, words)
    elif files.kind in BYTE_LEVEL and model == "BPE":
        _byte_level(backend, files, words)
    elif files.kind == "LlamaTokenizer" and model == "BPE" and "ByteLevel" not in repr(backend.pre_tokenizer):
        _llama(backend, files)
    elif not files.kind and model == "WordPiece" and backend.pre_tokenizer is None:  # a vocab.txt alone
        _word_piece(backend, files, words)
    elif not files.kind and model == "BPE" and backend.pre_tokenizer is None and backend.normalizer is None:
        _byte_level(backend, files, words)


def _word_piece(backend: Any, files: TokenizerFiles, words: SpecialWords) -> None:
    """BERT: clean and perhaps lower-case text, split at punctuation, and enclose it in `[CLS]` and `[SEP]`."""
    from tokenizers import decoders, normalizers, pre_tokenizers, processors

    fields = files.fields
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(fields.get("tokenize_chinese_chars", True)),
        strip_accents=fields.get("strip_accents"),
        lowercase=bool(fields.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    first, last = words.named.get("cls_token", "[CLS]"), words.named.get("sep_token", "[SEP]")
    ids = [(word, backend.token_to_id(word)) for word in (first, last)]
    if all(number is not None for _, number in ids):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {last}:0",
            pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
            special_tokens=ids,
        )


def _byte_level(backend: Any, files: TokenizerFiles, words: SpecialWords) -> None:
    """GPT-2, GPT-NeoX, RoBERTa and Qwen2: a BPE of bytes; RoBERTa encloses a text in `<s>` and `</s>`."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors

    space = bool(files.fields.get("add_prefix_space", False))
    is_plain = backend.pre_tokenizer is None or isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
    if backend.normalizer is None and files.kind in ("GPTNeoXTokenizer", "Qwen2Tokenizer"):
        backend.normalizer = normalizers.NFC()
    if is_plain and files.kind == "Qwen2Tokenizer":
        split = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated", invert=False)
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, pieces])
    elif is_plain:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    if backend.decoder is None:
        backend.decoder = decoders.ByteLevel()
    if files.kind in ("BartTokenizer", "RobertaTokenizer"):
        last, first = (
            (words.named[x], backend.token_to_id(words.named[x])) for x in ("sep_token", "cls_token")
        )
        trims = bool(files.fields.get("trim_offsets", True))
        backend.post_processor = processors.RobertaProcessing(last, first, trims, space)
    elif backend.post_processor is None:
        _ends(backend, files, words)


def _ends(backend: Any, files: TokenizerFiles, words: SpecialWords) -> None:
    """Begin or end texts with `bos_token` or `eos_token`, where `add_bos_token` or `add_eos_token` asks for it."""
    from tokenizers import processors

    if (files.directory / "tokenizer.json").is_file():  # which has its own rule
        return
    bos, eos = (
        words.named.get(f"{name}_token") if files.fields.get(f"add_{name}_token") else None
        for name in ("bos", "eos")
    )
    if bos is None and eos is None:
        return

    def enclosed(text: str, kind: int) -> str:
        return " ".join(f"{part}:{kind}" for part in (bos, text, eos) if part is not None)

    backend.post_processor = processors.TemplateProcessing(
        single=enclosed("$A", 0),
        pair=f"{enclosed('$A', 0)} {enclosed('$B', 1)}",
        special_tokens=[(word, backend.token_to_id(word)) for word in {bos, eos} if word is not None],
    )


def _llama(backend: Any, files: TokenizerFiles) -> None:
    """Llama 1 and 2: `▁` for spaces, one of them before the text."""
    from tokenizers import decoders, pre_tokenizers

    given = files.fields.get("add_prefix_space")
    space = True if given is None else bool(given)
    scheme = ("always" if files.fields.get("legacy", False) else "first") if space else "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(content=" ", left=1)] if space else parts)
