"""Text that goes on: the likeliest token behind those there are, or one that is drawn, again and again."""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import check_padding_mask, check_positive, check_tokens
from torch_attention.models.decoder import Decoder
from torch_attention.models.language import LanguageModel
from torch_attention.models.sampling import Sampling, check_draws
from torch_attention.models.token_masks import token_mask


@checked
@torch.no_grad()
def generate(
    model: Decoder | LanguageModel,
    tokens: Int[Tensor, "batch length"],
    num_tokens: int,
    mask: Shaped[Tensor, "..."] | None = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_token: int | None = None,
    pad_token: int = 0,
    draws: Float[Tensor, "num_tokens batch"] | None = None,
) -> Int[Tensor, "batch num_tokens"]:
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
    was_training = model.training
    model.eval()
    try:
        return _generate(model, tokens, num_tokens, mask, draws, sampling)
    finally:
        model.train(was_training)


def check_prompt(
    model: Decoder | LanguageModel,
    tokens: Int[Tensor, "batch length"],
    num_tokens: int,
    mask: Shaped[Tensor, "..."] | None,
) -> None:
    """Raise unless the model can go on from such a prompt."""
    check_tokens(tokens)
    check_positive(length=tokens.shape[1], num_tokens=num_tokens)
    check_padding_mask(mask, *tokens.shape)
    total, max_len = tokens.shape[1] + num_tokens, getattr(model.config, "max_len", None)
    if max_len is not None and total > max_len:
        raise ValueError(f"tokens and num_tokens must be at most max_len={max_len} together, got {total}")


def _generate(
    model: Decoder | LanguageModel,
    tokens: Tensor,
    num_tokens: int,
    mask: Tensor | None,
    draws: Tensor | None,
    sampling: Sampling,
) -> Int[Tensor, "batch num_tokens"]:
    caches: tuple[Any, ...] | None = model.start()
    there = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask[:, 0, 0]  # batch length
    positions = torch.clamp(there.cumsum(-1) - 1, min=0)  # batch length
    read = model.read(tokens, mask, positions=told(model, positions), caches=caches)
    x, caches = read.last_hidden_state, read.caches

    every_draw = (None,) * num_tokens if draws is None else draws.unbind()
    ended = torch.zeros_like(tokens[:, :1], dtype=torch.bool)  # batch 1
    token, ended = sampling.follow(model.logits(x[:, -1:]), every_draw[0], ended)  # batch 1
    found, position = [token], positions[:, -1:] + 1  # batch 1 each
    for draw in every_draw[1:]:
        read = model.read(token, positions=told(model, position), caches=caches)
        caches = read.caches
        token, ended = sampling.follow(model.logits(read.last_hidden_state), draw, ended)  # batch 1
        found.append(token)
        position = position + 1
    return torch.cat(found, dim=1)


@checked
def told(
    model: Decoder | LanguageModel, positions: Int[Tensor, "batch length"]
) -> Int[Tensor, "batch length"] | None:
    """What a model must be told of where its tokens stand.

    A `LanguageModel` without learned positions knows distances alone, which padding in front leaves as they are.
    """
    return positions if model.config.max_len is not None else None
