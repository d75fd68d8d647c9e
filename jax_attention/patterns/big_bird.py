r"""BigBird attention: each block attends to local, global and random blocks (Zaheer et al. 2020).

$$ o_i = \sum_{j : B(j) \in S_{h,B(i)}} \alpha_{ij} v_j, \qquad B(i) = \lfloor i / b \rfloor, \qquad
   S_{h,m} = \{n : |m - n| \le (w - 1) / 2\} \cup \mathcal{G} \cup R_{h,m} $$

G is the set of the first g and the last g blocks; the queries of these global blocks attend to all keys. One change
from `MultiHeadSelfAttention`: the pattern of visible keys. S is a set: a random block that is already visible is not
counted twice.

| symbol  | argument            |                                                                    |
|---------|---------------------|--------------------------------------------------------------------|
| b       | `block_size`        | it must divide the length                                          |
| w       | `window_blocks`     | consecutive blocks, centred on the query's own                     |
| g       | `global_blocks`     | at each end of the sequence                                        |
| R_{h,m} | `random_blocks`     | argument of the call, per head h and block m; see `draw_random_blocks` |
| S       | `block_sparse_mask` |                                                                    |
"""

from typing import Unpack

import jax.numpy as jnp
import numpy as np
from einops import repeat
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.caches import KeyValue
from jax_attention.checks import check_at_least, check_divisible, check_positive
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory
from jax_attention.ops import merge_heads, split_heads
from jax_attention.ops.arrays import known_at_most
from jax_attention.outputs import AttentionOutput
from jax_attention.patterns.block_sparse import block_sparse_heads, check_random_blocks
from jax_attention.patterns.blocks import SHORT


@checked
def block_sparse_mask(
    num_blocks: int,
    block_size: int,
    random_blocks: Int[Array, "heads blocks random"] | None = None,
    *,
    window_blocks: int = 3,
    global_blocks: int = 1,
) -> Bool[Array, "1 heads length length"]:
    """Block mask with local, global and random blocks; queries of global blocks attend to all keys.

        >>> block_sparse_mask(7, 1)
        1 1 1 1 1 1 1
        1 1 1 0 0 0 1
        1 1 1 1 0 0 1
        1 0 1 1 1 0 1
        1 0 0 1 1 1 1
        1 0 0 0 1 1 1
        1 1 1 1 1 1 1

    With a window of one block, no global blocks, and random blocks for one head; an index outside the sequence adds no
    block:

        >>> block_sparse_mask(3, 2, array([[[2], [-1], [0]]]), window_blocks=1, global_blocks=0)
        1 1 0 0 1 1
        1 1 0 0 1 1
        0 0 1 1 0 0
        0 0 1 1 0 0
        1 1 0 0 1 1
        1 1 0 0 1 1

    Args:
        num_blocks: number of blocks in the sequence.
        block_size: number of positions in a block.
        random_blocks: indices of further visible blocks for each head and query block; None for none.
        window_blocks: number of consecutive visible blocks, centred on the query's own; odd.
        global_blocks: number of global blocks at each end; they attend to all blocks, and all blocks attend to them.
        device: device of the mask when there are no `random_blocks`.

    Returns:
        Boolean mask `(1, heads, length, length)`; one head if there are no random blocks.

    Raises:
        ValueError: a size below 1, an even `window_blocks`, or a negative `global_blocks`.
    """
    _check_pattern(block_size, window_blocks, global_blocks)
    check_at_least(0, num_blocks=num_blocks)
    key = jnp.arange(num_blocks)  # blocks
    query, key, reach = key[:, None], key[None], window_blocks // 2
    is_global = (key < global_blocks) | (key >= num_blocks - global_blocks)
    seen = (key <= query + reach) & (key >= query - reach)
    seen = (seen | is_global | is_global.swapaxes(0, 1))[None]  # 1 blocks blocks
    if random_blocks is not None:
        seen = seen | (random_blocks[..., None] == with_rank(key, 4)).any(axis=-2)  # heads blocks blocks
    return repeat(seen, "heads q k -> 1 heads (q i) (k j)", i=block_size, j=block_size)


@checked
def draw_random_blocks(
    num_heads: int,
    num_blocks: int,
    num_random: int,
    *,
    window_blocks: int = 3,
    global_blocks: int = 1,
    seed: int = 0,
) -> Int[Array, "heads blocks random"]:
    """Sample random blocks for `BigBirdAttention`, distinct and outside the window and the global blocks.

    The same seed gives the same blocks in both frameworks. Where fewer than `num_random` blocks are left to sample
    from, the remaining entries are -1, which adds no block.

    Args:
        num_heads: number of heads.
        num_blocks: number of blocks in the sequence.
        num_random: number of blocks to sample for each head and query block.
        window_blocks, global_blocks: as in `block_sparse_mask`.
        seed: seed of the random generator.
        device: device of the result.

    Raises:
        ValueError: as in `block_sparse_mask`, or a negative `num_random`.
    """
    _check_pattern(1, window_blocks, global_blocks)
    check_positive(num_heads=num_heads, num_blocks=num_blocks)
    check_at_least(0, num_random=num_random)
    rng = np.random.default_rng(seed)
    reach, ends = window_blocks // 2, range(global_blocks, num_blocks - global_blocks)
    drawn = np.full((num_heads, num_blocks, num_random), -1, np.int32)
    for h in range(num_heads):
        for m in ends:
            left = [n for n in ends if abs(m - n) > reach]
            chosen = rng.permutation(left)[:num_random]
            drawn[h, m, : len(chosen)] = chosen
    return jnp.asarray(drawn)


@checked
class BigBirdAttention(SelfAttentionFrame):
    """Multi-head self-attention to neighbouring, global and random blocks (Zaheer et al. 2020).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        block_size: number of positions in a block; must divide the length.
        window_blocks: number of consecutive visible blocks, centred on the query's own; odd.
        global_blocks: number of global blocks at each end; they attend to all blocks, and all blocks attend to them.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: as in `block_sparse_mask`, sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        block_size: int,
        *,
        window_blocks: int = 3,
        global_blocks: int = 1,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        _check_pattern(block_size, window_blocks, global_blocks)
        heads = grouped_heads(embed_dim, num_heads)
        super().__init__(embed_dim, num_heads, heads.head_dim, rngs=rngs, **options)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.block_size = block_size
        self.window_blocks = window_blocks
        self.global_blocks = global_blocks
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        random_blocks: Int[Array, "heads blocks random"] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput:
        """Apply self-attention with the BigBird pattern.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; combined with the pattern. None for no mask.
            random_blocks: indices of further visible blocks for each head and query block; None for none. An index
                outside the sequence, such as -1, adds no block.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`.

        Raises:
            TypeError: a mask that is not boolean, or blocks that are not integers.
            ValueError: shapes that do not fit, or a length that is not a multiple of `block_size`.
        """
        self.check(x, mask, **call)
        check_divisible(length=x.shape[1], block_size=self.block_size)
        num_blocks = x.shape[1] // self.block_size
        check_random_blocks(random_blocks, self.num_heads, num_blocks)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        met = self.window_blocks + 2 * self.global_blocks
        met += 0 if random_blocks is None else random_blocks.shape[-1]
        is_short = known_at_most(x.shape[1], max(SHORT, met * self.block_size))
        if self.is_cut(**call) and not is_short:
            heads = block_sparse_heads(
                self,
                query,
                key,
                value,
                mask,
                random_blocks,
                block_size=self.block_size,
                window_blocks=self.window_blocks,
                global_blocks=self.global_blocks,
                **call,
            )
            return AttentionOutput(self.out_proj(merge_heads(heads)), None)

        pattern = block_sparse_mask(
            num_blocks,
            self.block_size,
            random_blocks,
            window_blocks=self.window_blocks,
            global_blocks=self.global_blocks,
        )
        seen = self.see(query, KeyValue(key, value), mask, **call).with_mask(pattern)
        heads, weights = seen.attend()
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights)


def _check_pattern(block_size: int, window_blocks: int, global_blocks: int) -> None:
    check_positive(block_size=block_size, window_blocks=window_blocks)
    check_at_least(0, global_blocks=global_blocks)
    if window_blocks % 2 == 0:
        raise ValueError(
            f"window_blocks must be odd (the query's own block and equally many on each side), got {window_blocks}"
        )


def main() -> None:
    """Show six blocks of one word each, with one random block per block and head."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.masks import mask_text

    words = ["the", "cat", "sat", "on", "the", "mat"]
    blocks = draw_random_blocks(2, 6, 1)
    print(mask_text(block_sparse_mask(6, 1, blocks)))
    attention = fill(BigBirdAttention(embed_dim=6, num_heads=2, block_size=1, rngs=nnx.Rngs(0)))
    show("BigBirdAttention", attention(draw(1, 6, 6), random_blocks=blocks), words, words)


if __name__ == "__main__":
    main()
