"""First and last tokens of a generated text, and the settings of `generation_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_bridge.pretrained.text.model import TextModel
from attention_bridge.pretrained.text.tokenizer_files import optional

# Settings of `generation_config.json` that change the tokens, with their neutral values.
UNUSED = {
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
}


def hints(model: TextModel, *, is_greedy: bool) -> list[str]:
    """Settings of `generation_config.json` that `generate` does not apply, one line each."""
    fields = optional(model.directory / "generation_config.json")
    found = []
    given = {name: fields[name] for name, neutral in UNUSED.items() if fields.get(name) not in neutral}
    asked = [f"{name}={value}" for name, value in given.items()]
    if asked:
        found.append(f"generation_config.json asks for {', '.join(asked)}, which is not applied")
    if fields.get("do_sample") and is_greedy:
        options = {
            "temperature": 1.0,
            **{k: fields[k] for k in ("temperature", "top_k", "top_p") if fields.get(k)},
        }
        typed = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
        found.append(f"tokens are chosen greedily; generation_config.json suggests {typed}")
    return found


def end_tokens(model: TextModel, fields: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The end tokens of `generation_config.json`; None for the end tokens of the model's configuration."""
    given = fields.get("eos_token_id")
    several = given if isinstance(given, list) else [given]
    size = model.vocab_size
    return tuple(x for x in several if type(x) is int and 0 <= x < size) or None


def known_ends(model: TextModel) -> tuple[int, ...]:
    """The end tokens of the model's configuration."""
    found: tuple[int, ...] = getattr(getattr(model.model.config, "special_tokens", None), "eos", ())
    return found


def start_tokens(model: TextModel, fields: Mapping[str, Any]) -> tuple[int, ...] | None:
    """First tokens of an encoder-decoder's target: the start token, and the one that must follow it.

    None for the start token of the model's configuration alone.
    """
    both = {**model.config, **{name: x for name, x in fields.items() if x is not None}}
    special = getattr(model.model.config, "special_tokens", None)
    start = both.get("decoder_start_token_id")
    if start is None and special is not None:
        start = special.bos if special.decoder_start is None else special.decoder_start
    forced = both.get("forced_bos_token_id")
    if type(start) is not int:
        return None
    return (start, forced) if type(forced) is int else (start,)


def needed_mask(model: TextModel, ids: np.ndarray) -> np.ndarray | None:
    """A mask of real tokens if the prompt has the padding token, which `generate` would take for padding."""
    pad = getattr(getattr(model.model.config, "special_tokens", None), "pad", None)
    return np.ones(ids.shape, np.bool_) if pad is not None and (ids == pad).any() else None
