"""Selection of the most important blocks of keys for a query (Yuan et al. 2025, section 3.3.2)."""

import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import first, with_rank
from jax_attention.ops import top_k_mask
from jax_attention.ops.rules import bounded


@checked
def runs(length: int, size: int, stride: int) -> Int[Array, "runs size"]:
    """Positions of each run of `size` keys, one run every `stride` positions; the last runs may exceed the sequence."""
    start = stride * jnp.arange(-(-length // stride))  # runs
    return start[:, None] + jnp.arange(size)[None]


def block_sums(x: Float[Array, "... key"], size: int) -> Float[Array, "... blocks"]:
    """Sum over each block of `size` keys; the last block may be shorter."""
    whole = (x.shape[-1] + size - 1) // size * size
    # Pad with a whole block of zeros and cut at the last block: this compiles to one program for all lengths.
    zeros = jnp.zeros((*x.shape[:-1], size), dtype=x.dtype)
    padded = first(jnp.concatenate([x, zeros], axis=-1), whole, -1)
    return reduce(padded, "... (n size) -> ... n", "sum", size=size)


def stride_weights(
    weights: Float[Array, "... runs"], per_run: int, count: int
) -> Float[Array, "... strides"]:
    """Sum the weights of all runs that cover each of `count` strides; a run covers `per_run` strides."""
    before = jnp.zeros((*weights.shape[:-1], per_run - 1), dtype=weights.dtype)
    after = jnp.zeros((*weights.shape[:-1], count), dtype=weights.dtype)
    padded = jnp.concatenate([before, weights, after], axis=-1)
    total = padded[..., :count]
    for start in range(1, per_run):
        total = total + padded[..., start : start + count]
    return total


@checked
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
    """Mask of the keys in the most important blocks, shared by the heads of a key/value group.

    No gradient flows through the selection.

    Args:
        compressed_weights: attention weights of each query over the compressed keys.
        visible: boolean mask of the visible keys, at least causal. A block that is fully masked for all heads of a
            group is not selected.
        num_kv_heads, compressed_size, stride, selected_size, num_selected: as in `NativeSparseAttention`.
        query_offset: key position of the first query.
    """
    query_len, key_len = visible.shape[-2:]
    count = (key_len + selected_size - 1) // selected_size
    block = jnp.arange(count)[None]  # 1 blocks
    per_block, per_run = selected_size // stride, compressed_size // stride
    by_group = reduce(compressed_weights, "b (g r) q n -> b g q n", "sum", g=num_kv_heads)
    by_stride = stride_weights(by_group, per_run, count * per_block)  # batch kv_heads query strides
    importance = block_sums(by_stride, per_block)  # batch kv_heads query blocks

    own = jnp.arange(query_len) + bounded(query_offset)  # query
    own = own[:, None] // selected_size  # query 1, the query's own block
    always = (block == 0) | (block == own) | (block == own - 1)  # query blocks
    importance = jnp.where(with_rank(always, 4), jnp.inf, importance)
    members = runs(count * selected_size, selected_size, selected_size)
    members = jnp.clip(members, max=key_len - 1)  # blocks size
    seen = visible[..., members].any(axis=-1)  # batch heads query blocks
    seen = rearrange(seen, "b (g r) q n -> b g r q n", g=num_kv_heads).any(axis=2)
    blocks = top_k_mask(importance, num_selected, seen)  # batch kv_heads query blocks
    keys = blocks[..., jnp.arange(key_len) // selected_size]  # batch kv_heads query key
    return repeat(keys, "b g q k -> b (g r) q k", r=visible.shape[1] // num_kv_heads)
