"""Learned query vectors, shared by all elements of a batch."""

from einops import repeat
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.checks import align, check_boolean, check_keep


def for_each_element(vectors: Float[Array, "vectors dim"], batch: int) -> Float[Array, "batch vectors dim"]:
    """Repeat learned vectors for every element of a batch."""
    return repeat(vectors, "vectors dim -> batch vectors dim", batch=batch)


def check_masks(
    x: Float[Array, "batch length ..."],
    num_vectors: int,
    num_heads: int,
    mask: Bool[Array, "..."] | None,
    dropout_keep: Bool[Array, "..."] | None,
) -> None:
    """Raise unless mask and dropout mask are boolean and match the weights of learned vectors over `x`."""
    shape = (x.shape[0], num_heads, num_vectors, x.shape[1])
    if mask is not None:
        check_boolean("mask", mask)
        align("mask", mask, shape)
    check_keep(dropout_keep, shape)
