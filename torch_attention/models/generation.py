"""Generation: the likeliest token each time (greedy), or one sampled from a seed, until each text has ended."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.models.evaluation import evaluate, evaluate_while
from torch_attention.models.sampling import Sampling, check_draws
from torch_attention.models.sequence import SequenceToSequence
from torch_attention.models.special_tokens import end_and_padding, first_tokens
from torch_attention.models.writing import Writer, Written, check_request, decode, prefill, prompt_mask
from torch_attention.ops.arrays import known_values


class _Texts(NamedTuple):
    """Texts that are being written.

    Attributes:
        tokens: `(batch, num_tokens)`, padding where nothing is written yet.
        last: the last token of each text.
        ended: whether an end token was written.
        num_written: number of tokens written.
        draws: uniform numbers for sampling; None for greedy decoding.
        written: state of the model.
    """

    tokens: Int[Tensor, "batch num_tokens"]
    last: Int[Tensor, " batch"]
    ended: Bool[Tensor, " batch"]
    num_written: Int[Tensor, ""]
    draws: Float[Tensor, "num_tokens batch"] | None
    written: Written


@checked
def generate(
    model: Writer,
    inputs: Shaped[Tensor, "batch length ..."],
    num_tokens: int,
    mask: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    draws: Float[Tensor, "num_tokens batch"] | None = None,
    start_token: int | Sequence[int] | None = None,
    eos_token: int | Sequence[int] | None = None,
    pad_token: int | None = None,
    callback: Callable[[Tensor], object] | None = None,
) -> Int[Tensor, "batch num_tokens"]:
    """Write tokens with a `Decoder`, a `LanguageModel` or an encoder-decoder, without dropout.

    The same seed gives the same tokens in both frameworks, unless a draw lies within rounding of the border between
    two tokens.

    Args:
        model: the model that writes.
        inputs: prompts of a decoder `(batch, length)`, which are continued; or sources of an encoder-decoder, tokens
            `(batch, source)` or frames of sound `(batch, frames, features)`.
        num_tokens: number of tokens to write at most.
        mask: True at real tokens, False at padding, `(batch, length)` or as from `padding_mask`, for sound
            `(batch, frames)`; padding may stand on either side. Without a mask, tokens equal to the padding token of
            the model's configuration are padding, unless that token also ends texts.
        temperature: divides the scores before a token is sampled; 0 takes the likeliest token (greedy).
        top_k: number of the likeliest tokens that may be sampled; None for all.
        top_p: probability that the tokens which may be sampled have together; None for all.
        seed: seed of NumPy's generator of uniform numbers, below 2^63; needed with a temperature above 0 unless `draws`
            are given, and without effect at 0, as `top_k` and `top_p`.
        draws: uniform numbers from 0 to below 1, one for each token, in place of a seed; see `sampling`.
        start_token: first token of an encoder-decoder's target, or several; None for the configuration's.
        eos_token: token that ends a text, or several, or () for none; None for the configuration's.
        pad_token: token that fills a text up behind its end token; None for the configuration's, which defaults to the
            end token.
        callback: called after each step with the tokens `(batch,)` just written, to stream them.

    Returns:
        The new tokens, without the prompt.

    Raises:
        TypeError: a mask that is not boolean, or another kind of argument.
        ValueError: shapes that do not fit, more tokens than have a position, or numbers out of their range, such as
            tokens outside the vocabulary.
        NotImplementedError: padding for a layer that mixes by fixed positions, such as `ChunkedAttention`.
    """
    sampling = Sampling(temperature, top_k, top_p, *end_and_padding(model, eos_token, pad_token))
    start = target_start(model, start_token)
    mask = prompt_mask(model, inputs, mask, sampling.eos_tokens)
    check_request(model, inputs, num_tokens, mask, start)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of the new tokens, got {type(callback).__name__}")
    if callback is not None and known_values(inputs) is None:
        raise TypeError("callback must be None while code is traced: it takes tokens as they are written")
    shape = (num_tokens, inputs.shape[0])
    if seed is not None and draws is None and temperature > 0:
        uniform = np.random.default_rng(seed).random(shape, np.float32)
        draws = torch.as_tensor(uniform, device=inputs.device)  # num_tokens batch
    elif seed is not None and draws is not None:
        raise ValueError("seed must be None where draws are given")
    check_draws(draws, temperature, *shape)

    sizes = {"num_tokens": num_tokens, "start": start, "sampling": sampling}
    texts = evaluate(_first, model, inputs, mask, draws, **sizes)
    if callback is not None:
        callback(texts.last)
    texts = evaluate_while(_going_on, _next, model, texts, callback, sampling=sampling)
    return texts.tokens


def target_start(model: Writer, start_token: Any) -> tuple[int, ...]:
    """The first tokens of an encoder-decoder's target; none for a decoder, whose prompt begins its text.

    Raises:
        ValueError: a start token for a decoder, or none for an encoder-decoder.
    """
    if isinstance(model, SequenceToSequence):
        return first_tokens(model, start_token)
    if start_token is not None:
        raise ValueError("start_token must be None for a decoder, whose prompt begins the text")
    return ()


def _first(
    model: Writer,
    inputs: Tensor,
    mask: Tensor | None,
    draws: Tensor | None,
    *,
    num_tokens: int,
    start: tuple[int, ...],
    sampling: Sampling,
) -> _Texts:
    """Read the inputs and write the first token."""
    scores, written = prefill(
        model, inputs, mask, num_tokens=num_tokens, start=start, eos=sampling.eos_tokens
    )
    ended = torch.zeros_like(scores[:, 0], dtype=torch.bool)  # batch
    token, ended = sampling.follow(scores, None if draws is None else draws[0], ended)  # batch each
    padding = torch.zeros_like(token)[:, None] + sampling.pad_token  # batch 1
    tokens = torch.broadcast_to(padding, (token.shape[0], num_tokens))  # batch num_tokens
    count = torch.zeros_like(token).sum()
    return _put(_Texts(tokens, token, ended, count, draws, written))


def _next(model: Writer, texts: _Texts, *, sampling: Sampling) -> _Texts:
    """Write one more token of each text."""
    scores, written = decode(model, texts.last, texts.written)
    draw = None if texts.draws is None else texts.draws[texts.num_written]
    token, ended = sampling.follow(scores, draw, texts.ended)  # batch each
    return _put(texts._replace(last=token, ended=ended, written=written))


def _put(texts: _Texts) -> _Texts:
    slots = torch.arange(texts.tokens.shape[1], device=texts.tokens.device)  # num_tokens
    tokens = torch.where(slots == texts.num_written, texts.last[:, None], texts.tokens)  # batch num_tokens
    return texts._replace(tokens=tokens, num_written=texts.num_written + 1)


def _going_on(texts: _Texts) -> Bool[Tensor, ""]:
    """Whether there is room for a token, and a text that has not ended."""
    return (texts.num_written < texts.tokens.shape[1]) & ~texts.ended.all()
