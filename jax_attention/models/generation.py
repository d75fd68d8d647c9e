"""Text that goes on: the likeliest token behind those there are, again and again."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Bool, Int

from jax_attention.caches import StaticCache
from jax_attention.checks import check_key_mask, check_positive, check_tokens
from jax_attention.models.decoder import Decoder


def generate(
    model: Decoder,
    tokens: Int[Array, "batch length"],
    num_tokens: int,
    mask: Bool[Array, "batch 1 1 length"] | None = None,
) -> Int[Array, "batch num_tokens"]:
    """Go on from a prompt with the likeliest token each time, without dropout.

    Args:
        model: what scores the tokens.
        tokens: the prompt of each text; shorter ones are padded in front.
        num_tokens: how many more.
        mask: False where there is padding, as from `padding_mask`; a text counts its positions from its first token.

    Returns:
        The tokens that follow the prompt.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that do not fit, or more tokens than have a position.
    """
    check_prompt(model, tokens, num_tokens, mask)
    graphdef, state = nnx.split(model)
    return _generate(graphdef, state, tokens, num_tokens, mask)


def check_prompt(
    model: Decoder,
    tokens: Int[Array, "batch length"],
    num_tokens: int,
    mask: Bool[Array, "batch 1 1 length"] | None,
) -> None:
    """Raise unless the model can go on from such a prompt."""
    check_tokens(tokens)
    check_positive(length=tokens.shape[1], num_tokens=num_tokens)
    check_key_mask(mask, *tokens.shape)
    total, max_len = tokens.shape[1] + num_tokens, model.config.max_len
    if total > max_len:
        raise ValueError(f"tokens and num_tokens must be at most max_len={max_len} together, got {total}")


# Compiled once for each shape of the prompt and number of tokens.
@partial(jax.jit, static_argnames=("graphdef", "num_tokens"))
def _generate(
    graphdef: Any, state: Any, tokens: Array, num_tokens: int, mask: Array | None
) -> Int[Array, "batch num_tokens"]:
    model = nnx.merge(graphdef, state)
    model.eval()
    capacity = tokens.shape[1] + num_tokens
    caches = (StaticCache(capacity),) * model.config.num_layers
    there = jnp.ones(tokens.shape, jnp.bool_) if mask is None else mask[:, 0, 0]  # batch length
    positions = jnp.maximum(there.cumsum(-1) - 1, 0)  # batch length
    x, caches, _ = model.read(tokens, mask, positions=positions, caches=caches)

    def step(carry: Any, _: None) -> Any:
        token, position, caches = carry
        x, caches, _ = model.read(token, positions=position, caches=caches)
        following = likeliest(model, x)  # batch 1
        return (following, position + 1, caches), following[:, 0]

    first = likeliest(model, x[:, -1:])  # batch 1
    carry = (first, positions[:, -1:] + 1, caches)
    _, others = lax.scan(step, carry, length=num_tokens - 1)  # num_tokens-1 batch
    return jnp.concatenate([first, others.T], axis=1)


def likeliest(model: Decoder, x: Array) -> Int[Array, "batch length"]:
    """The token with the highest score behind each position; the first of those that tie."""
    return model.logits(x).argmax(-1)
