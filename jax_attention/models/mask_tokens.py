r"""Embeddings of sequences with mask tokens, whose own embedding is zero (ESM-2, Lin et al. 2023).

$$ x_i \leftarrow 0.88\, \frac{n}{n - m}\, x_i, \qquad x_i \leftarrow 0 \text{ at mask tokens} $$

n is the number of real tokens of a sequence, m the number of mask tokens among them. In training, 0.15 of the tokens
are chosen and 0.8 of these are masked, which leaves 0.88; the factor keeps the sum of the embeddings as in training.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.models.token_masks import real_tokens
from jax_attention.ops import at_least_float32

KEPT = 1.0 - 0.15 * 0.8  # share of the tokens that are not masked in training


@checked
def without_mask_tokens(
    x: Float[Array, "batch length embed"],
    tokens: Int[Array, "batch length"],
    mask: Shaped[Array, "..."] | None,
    mask_token: int,
) -> Float[Array, "batch length embed"]:
    """Set the embeddings of mask tokens to zero, and scale the others.

    Args:
        x: embeddings of the tokens.
        tokens: token ids.
        mask: boolean mask of the real tokens, `(batch, length)` or `(batch, 1, 1, length)`; None if all are real.
        mask_token: id of the mask token.

    Raises:
        ValueError: the mask depends on the query.
    """
    real, is_masked = real_tokens(mask, x), tokens == mask_token  # batch length
    count, unmasked = real.sum(1), (real & ~is_masked).sum(1)  # batch
    wide = jnp.where(is_masked[..., None], 0.0, at_least_float32(x))  # batch length embed
    factor = KEPT * count.astype(wide.dtype) / jnp.clip(unmasked, min=1)  # batch
    return (wide * factor[:, None, None]).astype(x.dtype)
