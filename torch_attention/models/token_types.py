"""Token types, as of the two sentences of a pair."""

from jaxtyping import Int
from torch import Tensor


def check_types(
    token_types: Int[Tensor, "..."] | None, tokens: Int[Tensor, "batch length"], num_types: int | None
) -> None:
    """Raise ValueError unless token types have the shape of the tokens, and there are types at all."""
    if token_types is None:
        return
    if not num_types:
        raise ValueError(f"token_types must be None for a model with num_types={num_types}")
    if token_types.shape != tokens.shape:
        raise ValueError(
            f"token_types must have the shape of tokens, {tuple(tokens.shape)}, got {tuple(token_types.shape)}"
        )
