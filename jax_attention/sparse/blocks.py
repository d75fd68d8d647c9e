"""Runs of keys, and the blocks of keys that matter most to a query (Yuan et al. 2025, section 3.3.2)."""

import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arrays import einsum, with_rank
from jax_attention.ops import top_k_mask


def runs(length: int, size: int, stride: int) -> Int[Array, "runs size"]:
    """The positions of each run that begins in the sequence; the last ones may reach beyond its end."""
    first = stride * jnp.arange(-(-length // stride))  # runs
    return first[:, None] + jnp.arange(size)[None]


def chosen_keys(
    compressed_weights: Float[Array, "batch heads query runs"],
    visible: Bool[Array, "batch heads query key"],
    *,
    num_kv_heads: int,
    compressed_size: int,
    stride: int,
    selected_size: int,
    num_selected: int,
    query_offset: int | Int[Array, ""] = 0,
) -> Bool[Array, "batch heads query key"]:
    """Which keys lie in the blocks that matter most to a query and to the heads that share its keys.

    No gradient flows through the choice.

    Args:
        compressed_weights: how much each query attends to each compressed key.
        visible: causal or less; a block of which a group of heads sees nothing is not chosen.
        num_kv_heads, compressed_size, stride, selected_size, num_selected: as in `NativeSparseAttention`.
        query_offset: which key the first query is.
    """
    query_len, key_len = visible.shape[-2:]
    run = jnp.arange(compressed_weights.shape[-1])[:, None]  # runs 1, in strides
    block = jnp.arange((key_len + selected_size - 1) // selected_size)[None]  # 1 blocks
    per_block, per_run = selected_size // stride, compressed_size // stride
    overlap = jnp.minimum(run + per_run, (block + 1) * per_block) - jnp.maximum(run, block * per_block)
    overlap = jnp.clip(overlap, min=0).astype(compressed_weights.dtype)  # runs blocks
    by_group = reduce(compressed_weights, "b (g r) q n -> b g q n", "sum", g=num_kv_heads)
    importance = einsum("bgqn,nj->bgqj", by_group, overlap)  # batch kv_heads query blocks

    own = jnp.arange(query_len) + query_offset  # query
    own = own[:, None] // selected_size  # query 1, the block that it is in
    always = (block == 0) | (block == own) | (block == own - 1)  # query blocks
    importance = jnp.where(with_rank(always, 4), jnp.inf, importance)
    members = runs(block.shape[1] * selected_size, selected_size, selected_size)
    members = jnp.clip(members, max=key_len - 1)  # blocks size
    seen = visible[..., members].any(axis=-1)  # batch heads query blocks
    seen = rearrange(seen, "b (g r) q n -> b g r q n", g=num_kv_heads).any(axis=2)
    blocks = top_k_mask(importance, num_selected, seen)  # batch kv_heads query blocks
    keys = blocks[..., jnp.arange(key_len) // selected_size]  # batch kv_heads query key
    return repeat(keys, "b g q k -> b (g r) q k", r=visible.shape[1] // num_kv_heads)
