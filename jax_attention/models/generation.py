"""Text generation by greedy decoding or sampling."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.models.evaluation import evaluate, evaluate_while
from jax_attention.models.incremental_decoding import (
    Writer,
    Written,
    check_request,
    decode,
    prefill,
    prompt_mask,
)
from jax_attention.models.sampling import Sampling, check_draws
from jax_attention.models.sequence import SequenceToSequence
from jax_attention.models.special_tokens import end_and_padding, first_tokens
from jax_attention.models.token_rules import NO_RULES, TokenRules
from jax_attention.ops.arrays import known_values


class _Texts(NamedTuple):
    """State of a generation loop.

    Attributes:
        tokens: generated tokens `(batch, num_tokens)`; padding in the remaining slots.
        last: last token of each text.
        ended: whether each text has an end token.
        num_written: number of tokens generated per text.
        draws: uniform numbers for sampling; None for greedy decoding.
        written: decoding state of the model.
    """

    tokens: Int[Array, "batch num_tokens"]
    last: Int[Array, " batch"]
    ended: Bool[Array, " batch"]
    num_written: Int[Array, ""]
    draws: Float[Array, "num_tokens batch"] | None
    written: Written


@checked
def generate(
    model: Writer,
    inputs: Shaped[Array, "batch length ..."],
    num_tokens: int,
    mask: Shaped[Array, "..."] | None = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    draws: Float[Array, "num_tokens batch"] | None = None,
    start_token: int | Sequence[int] | None = None,
    eos_token: int | Sequence[int] | None = None,
    pad_token: int | None = None,
    callback: Callable[[Array], object] | None = None,
    rules: TokenRules | None = None,
) -> Int[Array, "batch num_tokens"]:
    """Generate tokens with a `Decoder`, a `LanguageModel` or an encoder-decoder, without dropout.

    The same seed gives the same tokens in both frameworks, unless a random number lies within the rounding error of the
    border between two tokens.

    Args:
        model: model that generates.
        inputs: prompts of a decoder, `(batch, length)`; or sources of an encoder-decoder, tokens `(batch, source)` or
            audio frames `(batch, frames, features)`.
        num_tokens: maximum number of tokens to generate.
        mask: boolean mask, True at real tokens, `(batch, length)` or from `padding_mask`, for audio `(batch, frames)`;
            padding may be on either side. None treats tokens equal to the configuration's padding token as padding,
            unless that token is also an end token.
        temperature: divisor of the scores before sampling; 0 for greedy decoding.
        top_k: number of most probable tokens to sample from; None for all.
        top_p: total probability of the most probable tokens to sample from; None for all.
        seed: seed of NumPy's uniform random generator, below 2^63; required with a temperature above 0 unless `draws`
            is given. At temperature 0, `seed`, `top_k` and `top_p` have no effect.
        draws: uniform random numbers in [0, 1), one per token, used instead of a seed; see `sampling`.
        start_token: first token or tokens of an encoder-decoder's target; None for the configuration's.
        eos_token: end token or tokens, () for none; None for the configuration's.
        pad_token: padding token after the end token; None for the configuration's, or else the end token.
        callback: function called after each step with the tokens `(batch,)` just generated, for streaming.
        rules: suppressed tokens and timestamps; None for no rules.

    Returns:
        The new tokens, without the prompt.

    Raises:
        TypeError: the mask is neither boolean nor 0/1, or another argument has the wrong type.
        ValueError: shapes do not match, there are more tokens than positions, or a number is out of range, such as a
            token outside the vocabulary.
        NotImplementedError: padding is given to a layer that mixes by fixed positions, such as `ChunkedAttention`.
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
        draws = jnp.asarray(uniform)  # num_tokens batch
    elif seed is not None and draws is not None:
        raise ValueError("seed must be None where draws are given")
    check_draws(draws, temperature, *shape)

    rules = NO_RULES if rules is None else rules
    sizes = {"num_tokens": num_tokens, "start": start, "sampling": sampling, "rules": rules}
    texts = evaluate(_first, model, inputs, mask, draws, **sizes)
    if callback is not None:
        callback(texts.last)
    texts = evaluate_while(_going_on, _next, model, texts, callback, sampling=sampling, rules=rules)
    return texts.tokens


def target_start(model: Writer, start_token: Any) -> tuple[int, ...]:
    """First tokens of an encoder-decoder's target; empty for a decoder, whose prompt begins the text.

    Raises:
        ValueError: a start token is given for a decoder, or none for an encoder-decoder.
    """
    if isinstance(model, SequenceToSequence):
        return first_tokens(model, start_token)
    if start_token is not None:
        raise ValueError("start_token must be None for a decoder, whose prompt begins the text")
    return ()


def _first(
    model: Writer,
    inputs: Array,
    mask: Array | None,
    draws: Array | None,
    *,
    num_tokens: int,
    start: tuple[int, ...],
    sampling: Sampling,
    rules: TokenRules,
) -> _Texts:
    """Read the inputs and generate the first token."""
    scores, written = prefill(
        model, inputs, mask, num_tokens=num_tokens, start=start, eos=sampling.eos_tokens
    )
    ended = jnp.zeros_like(scores[:, 0], dtype=jnp.bool_)  # batch
    padding = jnp.zeros_like(scores.argmax(-1))[:, None] + sampling.pad_token  # batch 1
    tokens = jnp.broadcast_to(padding, (scores.shape[0], num_tokens))  # batch num_tokens
    count = jnp.zeros_like(tokens[:, 0]).sum()
    scores = rules.apply(scores, tokens, count)  # batch vocab
    token, ended = sampling.follow(scores, None if draws is None else draws[0], ended)  # batch each
    return _put(_Texts(tokens, token, ended, count, draws, written))


def _next(model: Writer, texts: _Texts, *, sampling: Sampling, rules: TokenRules) -> _Texts:
    """Generate one more token for each text."""
    scores, written = decode(model, texts.last, texts.written)
    scores = rules.apply(scores, texts.tokens, texts.num_written)  # batch vocab
    draw = None if texts.draws is None else texts.draws[texts.num_written]
    token, ended = sampling.follow(scores, draw, texts.ended)  # batch each
    return _put(texts._replace(last=token, ended=ended, written=written))


def _put(texts: _Texts) -> _Texts:
    slots = jnp.arange(texts.tokens.shape[1])  # num_tokens
    tokens = jnp.where(slots == texts.num_written, texts.last[:, None], texts.tokens)  # batch num_tokens
    return texts._replace(tokens=tokens, num_written=texts.num_written + 1)


def _going_on(texts: _Texts) -> Bool[Array, ""]:
    """Whether a text has not ended and there is room for another token."""
    return (texts.num_written < texts.tokens.shape[1]) & ~texts.ended.all()
