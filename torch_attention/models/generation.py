"""Text that goes on: the likeliest token behind those there are, again and again."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from torch_attention.caches import Cache, GrowingCache
from torch_attention.checks import check_key_mask, check_positive, check_tokens
from torch_attention.models.decoder import Decoder


@torch.no_grad()
def generate(
    model: Decoder,
    tokens: Int[Tensor, "batch length"],
    num_tokens: int,
    mask: Bool[Tensor, "batch 1 1 length"] | None = None,
) -> Int[Tensor, "batch num_tokens"]:
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
    was_training = model.training
    model.eval()
    try:
        return _generate(model, tokens, num_tokens, mask)
    finally:
        model.train(was_training)


def check_prompt(
    model: Decoder,
    tokens: Int[Tensor, "batch length"],
    num_tokens: int,
    mask: Bool[Tensor, "batch 1 1 length"] | None,
) -> None:
    """Raise unless the model can go on from such a prompt."""
    check_tokens(tokens)
    check_positive(length=tokens.shape[1], num_tokens=num_tokens)
    check_key_mask(mask, *tokens.shape)
    total, max_len = tokens.shape[1] + num_tokens, model.config.max_len
    if total > max_len:
        raise ValueError(f"tokens and num_tokens must be at most max_len={max_len} together, got {total}")


def _generate(
    model: Decoder, tokens: Tensor, num_tokens: int, mask: Tensor | None
) -> Int[Tensor, "batch num_tokens"]:
    caches: tuple[Cache, ...] | None = (GrowingCache(),) * model.config.num_layers
    there = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask[:, 0, 0]  # batch length
    positions = torch.clamp(there.cumsum(-1) - 1, min=0)  # batch length
    x, caches, _ = model.read(tokens, mask, positions=positions, caches=caches)

    found = [likeliest(model, x[:, -1:])]  # batch 1 each
    position = positions[:, -1:] + 1  # batch 1
    while len(found) < num_tokens:
        x, caches, _ = model.read(found[-1], positions=position, caches=caches)
        found.append(likeliest(model, x))
        position = position + 1
    return torch.cat(found, dim=1)


def likeliest(model: Decoder, x: Tensor) -> Int[Tensor, "batch length"]:
    """The token with the highest score behind each position; the first of those that tie."""
    return model.logits(x).argmax(-1)
