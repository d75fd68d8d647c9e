"""Where the tokens of a model with learned positions stand."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from jax_attention.caches import Cache
from jax_attention.ops.known import known_values
from jax_attention.positions.protocol import check_shape


def places(
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "..."] | None,
    caches: tuple[Cache, ...] | None,
    max_len: int,
) -> Int[Array, "..."]:
    """The positions of tokens, as given or counted on from what the caches hold.

    Raises:
        ValueError: not one for each token, or beyond those that have an embedding.
    """
    check_shape("positions", positions, tokens)
    if positions is None:
        positions = jnp.arange(tokens.shape[1]) + (caches[0].length if caches else 0)
    known = known_values(positions)
    if known is not None and known.size and not 0 <= known.min() <= known.max() < max_len:
        raise ValueError(
            f"tokens must stand at positions from 0 to below max_len={max_len}, "
            f"got {known.min()} to {known.max()}"
        )
    return positions
