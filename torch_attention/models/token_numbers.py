"""Checks that token ids and token type ids are within their embedding tables."""

from jaxtyping import Int
from torch import Tensor

from torch_attention.ops.arrays import values_at_hand


def check_numbers(name: str, numbers: Int[Tensor, "..."], count: int) -> None:
    """Raise ValueError unless all integers are at least 0 and below `count`, where the check is cheap.

    Arrays in compiled code or on accelerators are not checked: there PyTorch raises its own error, and JAX gives NaN.
    """
    known = values_at_hand(numbers)
    if known is not None and known.size and not 0 <= known.min() <= known.max() < count:
        raise ValueError(f"{name} must be from 0 to below {count}, got {known.min()} to {known.max()}")


def check_types(
    token_types: Int[Tensor, "..."] | None, tokens: Int[Tensor, "batch length"], num_types: int | None
) -> None:
    """Raise ValueError unless token types have the shape of the tokens and the model has types."""
    if token_types is None:
        return
    if not num_types:
        raise ValueError(f"token_types must be None for a model with num_types={num_types}")
    if token_types.shape != tokens.shape:
        raise ValueError(
            f"token_types must have the shape of tokens, {tuple(tokens.shape)}, got {tuple(token_types.shape)}"
        )
    check_numbers("token_types", token_types, num_types)
