"""Special and added tokens of a tokenizer, from `tokenizer_config.json`, `special_tokens_map.json` or older files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.text.tokenizer_files import WORD_PIECE, TokenizerFiles, optional

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
# Special tokens of the classes of transformers, for files that do not name them.
DEFAULTS = {
    **dict.fromkeys(WORD_PIECE, BERT),
    "AlbertTokenizer": {
        **BERT,
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
    "BartTokenizer": ROBERTA,
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "GPTNeoXTokenizer": {
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        "pad_token": "<|padding|>",
    },
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    "RobertaTokenizer": ROBERTA,
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}


@dataclass(frozen=True)
class SpecialWords:
    """Special tokens by name, and the added tokens.

    Attributes:
        named: text of each special token, such as `mask_token`.
        settings: options of `tokenizers.AddedToken` for each added token, by its text.
        order: added tokens in the order of their ids.
        overriding: added tokens whose options replace those in `tokenizer.json`.
    """

    named: dict[str, str]
    settings: dict[str, dict[str, Any]]
    order: tuple[str, ...]
    overriding: frozenset[str]

    @classmethod
    def read(cls, files: TokenizerFiles) -> Self:
        """Read the tokens of a directory.

        Raises:
            CheckpointError: a file is damaged.
        """
        fields: dict[str, Any] = dict(files.fields)
        decoder = fields.get("added_tokens_decoder")
        if decoder is None:  # files from before transformers 4.34
            fields.update(optional(files.directory / "special_tokens_map.json"))
        settings: dict[str, dict[str, Any]] = {}
        named: dict[str, str] = dict(DEFAULTS.get(files.kind, {}))
        for name, value in fields.items():
            if name in NAMES or (name.endswith("_token") and isinstance(value, str | Mapping)):
                if value is None:
                    named.pop(name, None)
                    continue
                named[name] = _content(name, value)
                if isinstance(value, Mapping):
                    settings[named[name]] = _options(value, special=True)
        extra = fields.get("extra_special_tokens") or fields.get("additional_special_tokens") or []
        if isinstance(extra, Mapping):  # tokens with names of the model's own, such as image_token
            named.update({name: _content(name, value) for name, value in extra.items()})
            extra = []
        elif not isinstance(extra, list):
            raise CheckpointError(f"tokenizer_config.json must list extra_special_tokens, got {extra!r}")
        others = [_content("extra_special_tokens", value) for value in extra]
        added = _added(files, decoder, {*named.values(), *others})
        settings.update({content: options for _, content, options in added})
        order = dict.fromkeys([*(content for _, content, _ in added), *named.values(), *others])
        for content in (*named.values(), *others):
            settings.setdefault(content, {"special": True, "normalized": False})["special"] = True
        overriding = frozenset(x for _, x, _ in added) if isinstance(decoder, Mapping) else frozenset()
        return cls(named, settings, tuple(order), overriding)

    def add_to(self, backend: Any) -> None:
        """Add the tokens to a `tokenizers.Tokenizer`."""
        from tokenizers import AddedToken

        known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        for content in self.order:
            token, options = known.get(content), self.settings[content]
            if token is None or content in self.overriding:
                token = AddedToken(content, **options)
            elif token.special or not options.get("special"):
                continue
            (backend.add_special_tokens if options.get("special") else backend.add_tokens)([token])


def _added(files: TokenizerFiles, decoder: Any, special: set[str]) -> list[tuple[int, str, dict[str, Any]]]:
    """Id, text and options of each added token, in the order of ids."""
    if isinstance(decoder, Mapping):
        rows = [(number, _content("added_tokens_decoder", x), x) for number, x in decoder.items()]
    else:
        older = optional(files.directory / "added_tokens.json")
        rows = [
            (number, text, {"special": text in special, "normalized": text not in special})
            for text, number in older.items()
        ]
    try:
        return sorted((int(number), text, _options(x)) for number, text, x in rows)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{files.directory} must number its added tokens, but does not: {error}"
        ) from error


def _options(value: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    names = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {**{name: bool(value[name]) for name in names if name in value}, **more}


def _content(name: str, value: Any) -> str:
    """The text of a token, given as text or with its options."""
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise CheckpointError(f"tokenizer_config.json must give {name} as text, got {value!r}")
    return text
