"""Text that goes on: the likeliest token behind those there are, or one that is drawn, again and again."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.checks import check_padding_mask, check_positive, check_tokens
from jax_attention.models.decoder import Decoder
from jax_attention.models.language import LanguageModel
from jax_attention.models.sampling import Sampling, check_draws
from jax_attention.models.token_masks import token_mask


@checked
def generate(
    model: Decoder | LanguageModel,
    tokens: Int[Array, "batch length"],
    num_tokens: int,
    mask: Shaped[Array, "..."] | None = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_token: int | None = None,
    pad_token: int = 0,
    draws: Float[Array, "num_tokens batch"] | None = None,
) -> Int[Array, "batch num_tokens"]:
    """Go on from a prompt with the likeliest token each time, or with a temperature by chance, without dropout.

    Args:
        model: what scores the tokens.
        tokens: the prompt of each text; shorter ones are padded in front.
        num_tokens: how many more.
        mask: False where there is padding, as from `padding_mask`; a text counts its positions from its first token.
        temperature: by which scores are divided before a token is drawn; 0 takes the likeliest.
        top_k: how many of the likeliest tokens may be drawn; None for all.
        top_p: how much probability the likeliest that may be drawn have together; None for all.
        stop_token: what ends a text; None if nothing does.
        pad_token: what stands behind it.
        draws: uniform numbers from 0 to below 1, one for each token, with a temperature above 0; see `sampling`.

    Returns:
        The tokens that follow the prompt.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that do not fit, more tokens than have a position, or numbers out of their range.
    """
    sampling = Sampling(temperature, top_k, top_p, stop_token, pad_token)
    check_tokens(tokens)
    mask = token_mask(mask, tokens.shape)
    check_prompt(model, tokens, num_tokens, mask)
    check_draws(draws, temperature, num_tokens, tokens.shape[0])
    graphdef, state = nnx.split(model)
    return _generate(graphdef, state, tokens, num_tokens, mask, draws, sampling)


def check_prompt(
    model: Decoder | LanguageModel,
    tokens: Int[Array, "batch length"],
    num_tokens: int,
    mask: Shaped[Array, "..."] | None,
) -> None:
    """Raise unless the model can go on from such a prompt."""
    check_tokens(tokens)
    check_positive(length=tokens.shape[1], num_tokens=num_tokens)
    check_padding_mask(mask, *tokens.shape)
    total, max_len = tokens.shape[1] + num_tokens, getattr(model.config, "max_len", None)
    if max_len is not None and total > max_len:
        raise ValueError(f"tokens and num_tokens must be at most max_len={max_len} together, got {total}")


# Compiled once for each shape of the prompt, number of tokens and way of sampling.
@partial(jax.jit, static_argnames=("graphdef", "num_tokens", "sampling"))
def _generate(
    graphdef: Any,
    state: Any,
    tokens: Array,
    num_tokens: int,
    mask: Array | None,
    draws: Array | None,
    sampling: Sampling,
) -> Int[Array, "batch num_tokens"]:
    model = nnx.merge(graphdef, state)
    model.eval()
    capacity = tokens.shape[1] + num_tokens
    caches = model.start(capacity)
    there = jnp.ones(tokens.shape, jnp.bool_) if mask is None else mask[:, 0, 0]  # batch length
    positions = jnp.maximum(there.cumsum(-1) - 1, 0)  # batch length
    read = model.read(tokens, mask, positions=told(model, positions), caches=caches)
    x, caches = read.last_hidden_state, read.caches

    def step(carry: Any, draw: Array | None) -> Any:
        token, ended, position, caches = carry
        read = model.read(token, positions=told(model, position), caches=caches)
        token, ended = sampling.follow(model.logits(read.last_hidden_state), draw, ended)  # batch 1
        return (token, ended, position + 1, read.caches), token[:, 0]

    first_draw, draws = (None, None) if draws is None else (draws[0], draws[1:])
    ended = jnp.zeros((tokens.shape[0], 1), jnp.bool_)  # batch 1
    first, ended = sampling.follow(model.logits(x[:, -1:]), first_draw, ended)  # batch 1
    carry = (first, ended, positions[:, -1:] + 1, caches)
    _, others = lax.scan(step, carry, draws, length=num_tokens - 1)  # num_tokens-1 batch
    return jnp.concatenate([first, others.T], axis=1)


@checked
def told(
    model: Decoder | LanguageModel, positions: Int[Array, "batch length"]
) -> Int[Array, "batch length"] | None:
    """What a model must be told of where its tokens stand.

    A `LanguageModel` without learned positions knows distances alone, which padding in front leaves as they are.
    """
    return positions if model.config.max_len is not None else None
