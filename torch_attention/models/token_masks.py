"""Padding masks in the format of tokenizers, `(batch, length)`.

| shape                            | meaning; booleans or integers 0 and 1                            |
|----------------------------------|------------------------------------------------------------------|
| `(batch, length)`                | True or 1 at real tokens, False or 0 at padding                  |
| `(batch, query, key)`            | True where a query may attend to a key; a batch of 1 broadcasts  |
| `(batch, heads, query, key)`     | the same per head; axes of size 1 broadcast, as `padding_mask`   |

Attention classes interpret a mask with two axes as `(query, key)`; models interpret it as `(batch, length)`.
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import is_integer, with_rank
from torch_attention.checks import check_boolean, dtype_name
from torch_attention.ops.arrays import is_static, known_values


def token_mask(
    mask: Shaped[Tensor, "..."] | None, shape: Sequence[int], *, name: str = "mask"
) -> Bool[Tensor, "..."] | None:
    """Convert the mask of a model's call for its layers: two axes become `(batch, 1, 1, length)`, others stay.

    Args:
        mask: boolean or 0/1 mask; None for no mask.
        shape: shape of the tokens, `(batch, length)`.
        name: argument name of the mask in error messages.

    Raises:
        TypeError: the mask is neither boolean nor 0/1.
        ValueError: the mask has another shape.
    """
    if mask is None:
        return None
    if len(shape) != 2:  # tokens of another rank raise an error elsewhere
        return mask
    batch, length = shape
    if is_integer(mask):
        _check_zeros_and_ones(name, mask)
        mask = mask != 0  # of the same shape
    if mask.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name} must have shape (batch, length) = {(batch, length)}, (batch, query, key) or "
            f"(batch, heads, query, key), got {tuple(mask.shape)}"
        )
    if mask.ndim != 2:
        check_boolean(name, mask)
        return mask
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{name} must be boolean or integers 0 and 1 (True or 1: the token is there), got {dtype_name(mask)}; "
            "convert it with mask.bool() or mask.astype(bool)"
        )
    if tuple(mask.shape) != (batch, length):
        raise ValueError(
            f"{name} with two axes must have shape (batch, length) = {(batch, length)}, got {tuple(mask.shape)}; "
            "a mask of (query, key) is given as (1, query, key)"
        )
    is_square = is_static(batch) and is_static(length) and batch == length
    if is_square and known_values(mask) is not None:  # compiled code cannot warn
        warnings.warn(
            f"{name} of shape {tuple(mask.shape)} is read as (batch, length): which tokens are there; "
            "a mask of (query, key) is given as (1, query, key)",
            FutureWarning,
            stacklevel=2,
        )
    return mask[:, None, None]  # batch 1 1 length


@checked
def with_itself(mask: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """The mask with each position visible to itself, `(batch, 1|heads, length, length)`; None for None."""
    if mask is None:
        return None
    itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)  # length length
    return mask | with_rank(itself, mask.ndim)


@checked
def real_tokens(
    mask: Shaped[Tensor, "..."] | None, x: Float[Tensor, "batch length embed"], *, name: str = "mask"
) -> Bool[Tensor, "batch length"]:
    """Boolean mask of the real tokens of `x`, `(batch, length)`.

    Args:
        mask: boolean or 0/1 mask, `(batch, length)` or, from `padding_mask`, `(batch, 1, 1, length)`; None if all
            tokens are real.
        x: input sequence, `(batch, length, embed_dim)`.
        name: argument name of the mask in error messages.

    Raises:
        TypeError: the mask is neither boolean nor 0/1.
        ValueError: the mask has another shape, such as a mask that depends on the query.
    """
    batch, length = x.shape[:2]
    if mask is None:
        return torch.ones((batch, length), dtype=torch.bool, device=x.device)
    if mask.ndim == 4 and tuple(mask.shape[1:3]) == (1, 1):
        mask = mask[:, 0, 0]  # batch|1 length
    if is_integer(mask):
        _check_zeros_and_ones(name, mask)
        mask = mask != 0  # batch length
    check_boolean(name, mask)
    if mask.ndim != 2 or mask.shape[0] not in (1, batch) or mask.shape[1] != length:
        raise ValueError(
            f"{name} must say which tokens are real, (batch, length) = {(batch, length)}, got {tuple(mask.shape)}"
        )
    return torch.broadcast_to(mask, (batch, length))


def _check_zeros_and_ones(name: str, mask: Shaped[Tensor, "..."]) -> None:
    known = known_values(mask)
    if known is not None and not ((known == 0) | (known == 1)).all():
        raise TypeError(
            f"{name} must be boolean or integers 0 and 1 (True or 1: the token is there), "
            f"got integers from {known.min()} to {known.max()}"
        )
