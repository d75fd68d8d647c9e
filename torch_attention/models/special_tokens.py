"""Special tokens: end of sequence, padding and beginning of sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torch_attention.arguments import checked
from torch_attention.ranges import check_integer, refuse


@checked
@dataclass(frozen=True, init=False)
class SpecialTokens:
    """Ids of the special tokens of a model's tokenizer.

    Attributes:
        eos: end-of-sequence token, or several as in Llama 3; stored as a tuple.
        pad: padding token; None for none.
        bos: beginning-of-sequence token; None for none.
        decoder_start: first token of an encoder-decoder's target; None for `bos`.

    Raises:
        TypeError: a value is not an integer.
        ValueError: a token id is below 0.
    """

    eos: tuple[int, ...] = ()
    pad: int | None = None
    bos: int | None = None
    decoder_start: int | None = None

    def __init__(
        self,
        eos: Any = (),
        pad: int | None = None,
        bos: int | None = None,
        decoder_start: int | None = None,
    ):
        numbers = eos.tolist() if getattr(eos, "ndim", None) == 1 else eos
        several = isinstance(numbers, Sequence) and not isinstance(numbers, str | bytes)
        ends = tuple(numbers) if several else token_numbers("eos", numbers)
        kept = {"pad": pad, "bos": bos, "decoder_start": decoder_start}
        object.__setattr__(self, "eos", tuple([check_integer("eos", each) for each in ends]))
        for name, number in kept.items():
            object.__setattr__(self, name, number)


NO_SPECIAL_TOKENS = SpecialTokens()


def special_tokens(model: Any) -> SpecialTokens:
    """The special tokens of a model's configuration."""
    found: SpecialTokens = getattr(getattr(model, "config", None), "special_tokens", NO_SPECIAL_TOKENS)
    return found


def end_and_padding(model: Any, eos_token: Any, pad_token: int | None) -> tuple[tuple[int, ...], int]:
    """End tokens and padding token for generation.

    Args:
        model: model whose configuration supplies the defaults.
        eos_token: end token id, or several; None for the configuration's.
        pad_token: padding token id; None for the configuration's, or else the first end token, or 0.
    """
    known = special_tokens(model)
    eos = known.eos if eos_token is None else token_numbers("eos_token", eos_token)
    if pad_token is None:
        pad_token = known.pad if known.pad is not None else (*eos, 0)[0]
    return eos, pad_token


def first_tokens(model: Any, start_token: Any) -> tuple[int, ...]:
    """First tokens of an encoder-decoder's target.

    Raises:
        ValueError: no token is given, and the model's configuration has none.
    """
    if start_token is not None and token_numbers("start_token", start_token):
        return token_numbers("start_token", start_token)
    known = special_tokens(model)
    start = known.bos if known.decoder_start is None else known.decoder_start
    if start is None:
        raise ValueError("start_token must be given for a model whose configuration names none, got None")
    return (start,)


def check_within(name: str, tokens: tuple[int, ...], vocab_size: int) -> None:
    """Raise ValueError unless all token ids are below `vocab_size`."""
    if tokens and max(tokens) >= vocab_size:
        raise ValueError(f"{name} must be below vocab_size={vocab_size}, got {max(tokens)}")


def token_numbers(name: str, given: Any) -> tuple[int, ...]:
    """Convert one token id or several to a tuple.

    Raises:
        TypeError: the value is neither an integer nor a sequence of integers.
        ValueError: a token id is below 0.
    """
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        if given < 0:
            raise ValueError(f"{name} must be at least 0, got {given}")
        return (int(given),)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        refuse(name, "an integer or a sequence of integers", given)
    return tuple([token_numbers(name, each)[0] for each in given])
