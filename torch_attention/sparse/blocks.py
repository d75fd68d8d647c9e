"""Selection of the most important blocks of keys for a query (Yuan et al. 2025, section 3.3.2)."""

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import first, with_rank
from torch_attention.ops import top_k_mask
from torch_attention.ops.rules import bounded


@checked
def runs(
    length: int, size: int, stride: int, *, device: torch.device | str | None
) -> Int[Tensor, "runs size"]:
    """Positions of each run of `size` keys, one run every `stride` positions; the last runs may exceed the sequence."""
    start = stride * torch.arange(-(-length // stride), device=device)  # runs
    return start[:, None] + torch.arange(size, device=device)[None]


def block_sums(x: Float[Tensor, "... key"], size: int) -> Float[Tensor, "... blocks"]:
    """Sum over each block of `size` keys; the last block may be shorter."""
    whole = (x.shape[-1] + size - 1) // size * size
    # Pad with a whole block of zeros and cut at the last block: this compiles to one program for all lengths.
    zeros = torch.zeros((*x.shape[:-1], size), dtype=x.dtype, device=x.device)
    padded = first(torch.concatenate([x, zeros], dim=-1), whole, -1)
    return reduce(padded, "... (n size) -> ... n", "sum", size=size)


def stride_weights(
    weights: Float[Tensor, "... runs"], per_run: int, count: int
) -> Float[Tensor, "... strides"]:
    """Sum the weights of all runs that cover each of `count` strides; a run covers `per_run` strides."""
    before = torch.zeros((*weights.shape[:-1], per_run - 1), dtype=weights.dtype, device=weights.device)
    after = torch.zeros((*weights.shape[:-1], count), dtype=weights.dtype, device=weights.device)
    padded = torch.concatenate([before, weights, after], dim=-1)
    total = padded[..., :count]
    for start in range(1, per_run):
        total = total + padded[..., start : start + count]
    return total


@checked
def chosen_keys(
    compressed_weights: Float[Tensor, "batch heads query runs"],
    visible: Bool[Tensor, "batch heads query key"],
    *,
    num_kv_heads: int,
    compressed_size: int,
    stride: int,
    selected_size: int,
    num_selected: int,
    query_offset: int | Int[Tensor, ""] = 0,
) -> Bool[Tensor, "batch heads query key"]:
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
    block = torch.arange(count, device=visible.device)[None]  # 1 blocks
    per_block, per_run = selected_size // stride, compressed_size // stride
    by_group = reduce(compressed_weights, "b (g r) q n -> b g q n", "sum", g=num_kv_heads)
    by_stride = stride_weights(by_group, per_run, count * per_block)  # batch kv_heads query strides
    importance = block_sums(by_stride, per_block)  # batch kv_heads query blocks

    own = torch.arange(query_len, device=visible.device) + bounded(query_offset)  # query
    own = own[:, None] // selected_size  # query 1, the query's own block
    always = (block == 0) | (block == own) | (block == own - 1)  # query blocks
    importance = torch.where(with_rank(always, 4), torch.inf, importance)
    members = runs(count * selected_size, selected_size, selected_size, device=visible.device)
    members = torch.clip(members, max=key_len - 1)  # blocks size
    seen = visible[..., members].any(dim=-1)  # batch heads query blocks
    seen = rearrange(seen, "b (g r) q n -> b g r q n", g=num_kv_heads).any(dim=2)
    blocks = top_k_mask(importance, num_selected, seen)  # batch kv_heads query blocks
    keys = blocks[
        ..., torch.arange(key_len, device=visible.device) // selected_size
    ]  # batch kv_heads query key
    return repeat(keys, "b g q k -> b (g r) q k", r=visible.shape[1] // num_kv_heads)
