r"""Flex attention: scores and masks defined by Python functions (Dong et al. 2024).

$$ o_i = \sum_{j \in V(i)} \mathrm{softmax}_j\big(\mathrm{score}(s\, q_i^\top k_j,\, b, h, i, j)\big)\, v_j $$

A score function takes the score of one query-key pair and the indices of batch element, head, query and key. The same
function works in both mirrors, forward and backward, on every platform. Gradients flow to the floating-point arrays
that it closes over.

    >>> slopes = torch.tensor([0.5, 0.25, 0.125])
    >>> flex_attention(query, key, value, lambda score, b, h, i, j: score - slopes[h] * (i - j))

A mask is evaluated once for blocks of queries and keys; fully masked blocks are skipped:

    >>> document = torch.tensor([0, 0, 0, 1, 1])
    >>> same = lambda b, h, i, j: document[i] == document[j]
    >>> mask = create_block_mask(and_masks(same, lambda b, h, i, j: j <= i), None, None, 5, 5)
    >>> flex_attention(query, key, value, block_mask=mask)
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from torch_attention.arguments import checked
from torch_attention.checks import check_attention
from torch_attention.ops.arrays import known_values
from torch_attention.ops.block_mask import BlockMask, MaskMod, over_plane
from torch_attention.ops.block_mask import and_masks as and_masks
from torch_attention.ops.block_mask import create_block_mask as create_block_mask
from torch_attention.ops.block_mask import or_masks as or_masks
from torch_attention.ops.blockwise import COLUMNS, ROWS
from torch_attention.ops.rules import Place, Visibility
from torch_attention.ops.softmax import at_least_float32
from torch_attention.ops.tile_loop import attend_tiles
from torch_attention.ops.tiles import Fixed, Learned, Live, Plan, Tiling, tile_size, tiling

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@checked
def flex_attention(
    query: Float[Tensor, "batch heads query head_dim"],
    key: Float[Tensor, "batch kv_heads key head_dim"],
    value: Float[Tensor, "batch kv_heads key value_dim"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
) -> Any:
    """Attention with scores and mask defined by functions; memory is linear in the lengths.

    Args:
        query, key, value: as in `dot_product_attention`.
        score_mod: function of (score, b, h, i, j) that returns the modified score; None for no change.
        block_mask: mask of the visible keys, made by `create_block_mask`; None for no mask.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        enable_gqa: whether queries may have more heads than keys and values.
        return_lse: whether to return the logsumexp of each query's scores as well.

    Returns:
        Output with one vector per query, exactly zero for fully masked rows. With `return_lse`, a pair of the output
        and the logsumexp `(batch, heads, query)`, -inf for fully masked rows.

    Raises:
        ValueError: shapes do not match.
    """
    check_attention(query, key, value)
    batch, heads, query_len, _ = query.shape
    kv_heads, key_len = key.shape[1:3]
    check_flex(query, key, block_mask, enable_gqa)
    if 0 in (batch, query_len, key_len):  # no query-key pairs
        output = query.new_zeros(batch, heads, query_len, value.shape[-1])
        return (output, at_least_float32(output).sum(-1) - torch.inf) if return_lse else output
    group = heads // kv_heads
    if block_mask is None:
        sizes = tile_size(query_len, max(1, ROWS // group)), tile_size(key_len, COLUMNS)
        order = tiling((query_len, key_len), sizes, visibility=Visibility(), mask=None)
    else:
        sizes, order = _tiles_of_blocks(block_mask, group)
    arrays = [] if score_mod is None else _learned_by(score_mod)
    rule = _FlexRule(
        query.shape[-1] ** -0.5 if scale is None else scale,
        score_mod,
        None if block_mask is None else block_mask.mask_mod,
        tuple(arrays),
    )
    learned = Learned(
        rearrange(query, "n (g r) q d -> n g r q d", r=group), key, value, None, None, tuple(arrays)
    )
    output, log_sum = attend_tiles(Plan(rule, *sizes, 0.0), learned, Fixed(order, None, None, None))
    output = output.reshape(batch, heads, query_len, -1)
    if not return_lse:
        return output
    return output, log_sum.reshape(batch, heads, query_len)


def check_flex(query: Tensor, key: Tensor, block_mask: BlockMask | None, enable_gqa: bool) -> None:
    """Raise ValueError unless the heads and the block mask match queries and keys."""
    (batch, heads, query_len, _), (_, kv_heads, key_len, _) = query.shape, key.shape
    if heads != kv_heads and not enable_gqa:
        raise ValueError(
            f"query and key must have the same heads without enable_gqa, got {heads} and {kv_heads}"
        )
    if block_mask is None:
        return
    if block_mask.lengths != (query_len, key_len):
        raise ValueError(f"block_mask must be of lengths {(query_len, key_len)}, got {block_mask.lengths}")
    sizes = tuple(block_mask.live.shape[:2])
    if sizes[0] not in (1, batch) or sizes[1] not in (1, heads):
        raise ValueError(f"block_mask must be of (batch|1, heads|1) = {(batch, heads)}, got {sizes}")


@dataclass(frozen=True, eq=False)
class _FlexRule:
    """Score and mask rule of `flex_attention`, with the trainable tensors that `score_mod` reads."""

    scale: float
    score_mod: ScoreMod | None
    mask_mod: MaskMod | None
    learned: tuple[Tensor, ...]

    def score(
        self,
        products: Float[Tensor, "batch kv_heads group row column"],
        bias: Float[Tensor, "..."] | None,
        arrays: tuple[Tensor, ...],
        known: Any,
        place: Place,
    ) -> Float[Tensor, "batch kv_heads group row column"]:
        """Apply `score_mod` to every scaled product."""
        if self.score_mod is None:
            return products
        score_mod = self.score_mod
        by_key = torch.vmap(score_mod, (0, None, None, None, 0))
        by_query = torch.vmap(by_key, (0, None, None, 0, None))
        by_group = torch.vmap(by_query, (0, None, 0, None, None))
        by_head = torch.vmap(by_group, (0, None, 0, None, None))
        by_batch = torch.vmap(by_head, (0, 0, None, None, None))
        others = dict(zip(map(id, self.learned), arrays, strict=True))
        with _Replacing(others) if others else nullcontext():
            changed = by_batch(
                products, place.batch.flatten(), place.heads[..., 0, 0], place.queries[:, 0], place.keys
            )
        return changed.to(products.dtype)

    def visible(self, known: Any, place: Place) -> Bool[Tensor, "..."]:
        """Apply `mask_mod` to every query-key pair."""
        if self.mask_mod is None:
            return place.keys >= 0
        heads = place.heads.flatten()
        seen = over_plane(self.mask_mod)(place.batch.flatten(), heads, place.queries[:, 0], place.keys)
        return seen.unflatten(1, place.heads.shape[:2])  # batch kv_heads group row column


class _Recording(TorchFunctionMode):
    """Records the tensors with gradients that functions read but did not create."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}
        self.made: dict[int, Any] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` and record the tensors that it reads."""
        for x in tree_leaves((args, kwargs or {})):
            if isinstance(x, Tensor) and x.requires_grad and id(x) not in self.made:
                self.found[id(x)] = x
        result = func(*args, **(kwargs or {}))
        self.made |= {id(x): x for x in tree_leaves(result)}
        return result


class _Replacing(TorchFunctionMode):
    """Replaces tensors that functions read, by their `id`."""

    def __init__(self, others: dict[int, Tensor]):
        super().__init__()
        self.others = others

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` with the replaced tensors."""
        args, kwargs = tree_map(lambda x: self.others.get(id(x), x), (args, kwargs or {}))
        return func(*args, **kwargs)


def _learned_by(score_mod: ScoreMod) -> list[Tensor]:
    """Tensors with gradients that `score_mod` reads, from any scope."""
    number = torch.zeros((), dtype=torch.int64)
    with _Recording() as recording:
        score_mod(torch.zeros(()), number, number, number, number)
    return list(recording.found.values())


def _tiles_of_blocks(mask: BlockMask, group: int) -> tuple[tuple[int, int], Tiling]:
    """Group blocks into tiles: live if any block of any batch element and head is live, full if all are full."""
    sizes, live, full = [], mask.live.any(0).any(0), mask.full.all(0).all(0)
    for axis, most in ((0, max(1, ROWS // group)), (1, COLUMNS)):
        block, count = mask.block_size[axis], live.shape[axis]
        blocks = tile_size(count, max(1, most // block))
        widths = (0, -count % blocks) if axis == 1 else (0, 0, 0, -count % blocks)
        live = F.pad(live, widths).unflatten(axis, (-1, blocks)).any(axis + 1)
        full = F.pad(full, widths, value=True).unflatten(axis, (-1, blocks)).all(axis + 1)
        sizes.append(block * blocks)
    lives, fulls = known_values(live), known_values(full)
    if lives is None or fulls is None:  # in compiled code: visit every tile, with its mask
        order = tuple(tuple(Live(j, True) for j in range(live.shape[1])) for _ in range(live.shape[0]))
    else:
        order = tuple(
            tuple(Live(j, not fulls[i, j]) for j in range(live.shape[1]) if lives[i, j])
            for i in range(live.shape[0])
        )
    return (sizes[0], sizes[1]), order
