"""JAX's own fused call, `jax.nn.dot_product_attention`, made to obey the contract.

By itself it wants length before heads, gives the mean of all values for a fully masked row, and is NaN where
a bias hides a whole row. Here all restrictions become one mask, and a row with nothing to see is shown
everything inside the kernel and set to zero after it, so that no kernel meets an empty row.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.ops.definition import resolve_masks

NAME = "xla"


def native_refusal(
    query: Float[Array, "..."],
    value: Float[Array, "..."],
    *,
    softcap: float | None,
    dropout_keep: Bool[Array, "..."] | None,
) -> str | None:
    """One sentence that says what the kernel cannot do of this call, or None."""
    if softcap is not None:
        return "jax.nn.dot_product_attention has no softcap"
    if dropout_keep is not None:
        return "jax.nn.dot_product_attention takes no dropout mask"
    if query.dtype == jnp.float64:
        return "jax.nn.dot_product_attention takes its softmax in float32, got float64"
    if value.shape[-1] != query.shape[-1]:
        return f"jax.nn.dot_product_attention needs value_dim = head_dim, got {value.shape[-1]} and {query.shape[-1]}"
    if query.ndim > 4:
        return f"jax.nn.dot_product_attention takes one batch axis, got query of shape {query.shape}"
    return None


def native_attention(
    query: Float[Array, "*batch heads query head_dim"],
    key: Float[Array, "*batch kv_heads key head_dim"],
    value: Float[Array, "*batch kv_heads key value_dim"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | None = None,
    query_offset: int | Int[Array, ""] = 0,
    scale: float | None = None,
) -> Float[Array, "*batch heads query value_dim"]:
    """`dot_product_attention` through the fused call; arguments as there."""
    shape = (*query.shape[:-1], key.shape[-2])
    bias, visible = resolve_masks(
        shape, bias, mask, is_causal=is_causal, window=window, query_offset=query_offset
    )
    if visible is not None:
        alive = visible.any(axis=-1, keepdims=True)  # ... query 1
        visible = visible | ~alive
    query, key, value = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))  # ... length heads head_dim
    output = jax.nn.dot_product_attention(query, key, value, bias, visible, scale=scale)
    output = jnp.swapaxes(output, -3, -2)  # ... heads query head_dim
    return output if visible is None else jnp.where(alive, output, 0.0)
