"""Generation of text by a decoder or an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.pretrained.text import kinds
from attention_bridge.pretrained.text.generation_fields import (
    end_tokens,
    known_ends,
    needed_mask,
    start_tokens,
)
from attention_bridge.pretrained.text.model import TextModel, longest
from attention_bridge.pretrained.text.streaming import TextStream
from attention_bridge.pretrained.text.tokenizer_files import optional

DEFAULT_TOKENS = 64


@dataclass(frozen=True)
class Settings:
    """Settings of a generation.

    Attributes:
        num_tokens: maximum number of new tokens; None for 64, or fewer if the model has less room.
        temperature: divisor of the scores before sampling; 0 for greedy decoding.
        top_k: number of most probable tokens to sample from; None for all.
        top_p: total probability of the most probable tokens to sample from; None for all.
        seed: seed of the random numbers; required with a temperature above 0.
    """

    num_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None


class Generated(NamedTuple):
    """A generated text.

    Attributes:
        text: the new text, without special tokens.
        tokens: the new tokens, with the end token.
        prompt_tokens: number of tokens of the prompt.
        ended: whether the model generated an end token.
    """

    text: str
    tokens: list[int]
    prompt_tokens: int
    ended: bool


def generate(
    model: TextModel,
    prompt: str,
    settings: Settings | None = None,
    *,
    is_chat: bool = False,
    stream: Callable[[str], object] | None = None,
) -> Generated:
    """Continue a prompt, or with an encoder-decoder write the target of a source text.

    Args:
        model: a decoder or an encoder-decoder.
        prompt: the text.
        settings: length and sampling; None for greedy decoding.
        is_chat: whether the prompt is a rendered chat, which holds its special tokens.
        stream: function called with each new piece of text, in whole characters; None for none.

    Raises:
        InputError: the model generates no text, the prompt is too long, or a setting is invalid.
    """
    kind = kinds.check(model.model, "generate", kinds.WRITERS, model.directory)
    chosen = settings or Settings()
    if chosen.seed is not None and not 0 <= chosen.seed < 2**63:
        raise InputError(f"seed must be at least 0 and below 2^63, got {chosen.seed}")
    is_decoder = kind in ("Decoder", "LanguageModel")
    tokenizer = replace(model.tokenizer, longest=None) if is_decoder else model.tokenizer
    encoded = model.checked(tokenizer.encode([prompt], add_special_tokens=not is_chat))
    length = encoded.ids.shape[1] if is_decoder else 0
    fields = optional(model.directory / "generation_config.json")
    start = None if is_decoder else start_tokens(model, fields)
    forced = list(start[1:]) if start else []
    count = _num_tokens(model, chosen.num_tokens, length)
    eos = end_tokens(model, fields)
    texts = TextStream(model.tokenizer)
    emit = stream or (lambda piece: None)
    written: list[int] = []

    def add(token: int) -> None:
        written.append(token)
        if piece := texts.push(token):
            emit(piece)

    for token in forced:
        add(token)

    if count > len(forced):
        _run(model, encoded.ids, count - len(forced), chosen, start, eos, add)
    if piece := texts.finish():
        emit(piece)
    ends = known_ends(model) if eos is None else eos
    return Generated(
        model.tokenizer.decode(written),
        written,
        int(encoded.mask.sum()),
        bool(written) and written[-1] in ends,
    )


def _run(
    model: TextModel,
    ids: np.ndarray,
    count: int,
    settings: Settings,
    start: tuple[int, ...] | None,
    eos: tuple[int, ...] | None,
    add: Callable[[int], object],
) -> None:
    """Generate `count` tokens in the model's framework; `add` is called with each."""
    adapter = model.adapter
    given, mask = adapter.arrays(model.model, ids, needed_mask(model, ids))
    try:
        adapter.generate(
            model.model,
            given,
            count,
            mask,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=settings.seed,
            start_token=start,
            eos_token=eos,
            callback=lambda token: add(int(np.asarray(token)[0])),
        )
    except (NotImplementedError, ValueError) as error:
        raise InputError(str(error)) from error


def _num_tokens(model: TextModel, asked: int | None, used: int) -> int:
    """Number of tokens to generate, after `used` positions of the model.

    Raises:
        InputError: the model has fewer positions.
    """
    if asked is not None and asked < 1:
        raise InputError(f"num_tokens must be at least 1, got {asked}")
    room = longest(model.model)
    if room is None:
        return DEFAULT_TOKENS if asked is None else asked
    left = room - used
    if left < 1 or (asked is not None and asked > left):
        raise InputError(
            f"the prompt and the new tokens must be at most {room} tokens together, got {used} and "
            f"{DEFAULT_TOKENS if asked is None else asked}; give a shorter prompt or a smaller num_tokens"
        )
    return min(DEFAULT_TOKENS, left) if asked is None else asked
