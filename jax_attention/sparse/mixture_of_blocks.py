r"""Mixture of block attention: queries are routed to blocks by the score of their mean key (Lu et al. 2025).

$$ \mathrm{MoBA}(q, K, V) = \mathrm{softmax}\!\left(q\, K[I]^\top / \sqrt{d}\right) V[I], \quad
   I = \bigcup_{i\,:\,g_i = 1} I_i, \qquad g_i = 1 \iff s_i \in \mathrm{top}\text{-}k\,\{s_j\}, \quad
   s_i = q^\top\, \mathrm{mean}\, K[I_i] $$

One change from `CausalSelfAttention`: each query attends to k blocks of $B$ keys. Its own block, with the causal mask,
is always one of them; later blocks never are. There are no additional parameters, and with k equal to the number of
blocks it is `CausalSelfAttention`.

| symbol | argument     |                                                       |
|--------|--------------|-------------------------------------------------------|
| B      | `block_size` | the last block may be shorter                         |
| k      | `num_blocks` | visible blocks, including the query's own             |
| d      | `head_dim`   | `embed_dim / num_heads`                               |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.caches import KeyValue
from jax_attention.checks import check_positive
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, precise
from jax_attention.ops import (
    dot_product_scores,
    masked_softmax,
    merge_heads,
    split_heads,
    top_k_mask,
)
from jax_attention.ops.dispatch import Restrictions
from jax_attention.ops.rules import bounded
from jax_attention.outputs import AttentionOutput, CachedOutput
from jax_attention.sparse.blocks import block_sums


@checked
def block_attention_weights(
    query: Float[Array, "batch heads query head_dim"],
    key: Float[Array, "batch kv_heads key head_dim"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    block_size: int,
    num_blocks: int,
    **scoring: Unpack[Restrictions],
) -> Float[Array, "batch heads query key"]:
    """Causal softmax over the keys of the `num_blocks` blocks with the highest scores.

    The score of a block is the mean of its visible keys' scores, which equals the score of its mean key. No gradient
    flows through the selection.

    Args:
        query, key, bias, mask, scoring: as in `dot_product_attention_weights`, for one sequence.
        block_size: number of keys in a block.
        num_blocks: number of visible blocks, including the query's own.

    Raises:
        TypeError, ValueError: as in `dot_product_attention_weights`, or sizes below 1.
    """
    check_positive(block_size=block_size, num_blocks=num_blocks)
    scoring["is_causal"] = True
    scores, visible = dot_product_scores(query, key, bias, mask, **scoring)
    assert visible is not None  # causal attention always has a mask
    visible = jnp.broadcast_to(visible, scores.shape)  # batch heads query key
    block_of = jnp.arange(scores.shape[-1]) // block_size  # key
    block = jnp.arange((scores.shape[-1] + block_size - 1) // block_size)  # blocks
    total = block_sums(jnp.where(visible, scores, 0.0), block_size)  # batch heads query blocks
    count = block_sums(visible.astype(scores.dtype), block_size)  # batch heads query blocks
    gate = total / jnp.clip(count, min=1.0)  # batch heads query blocks
    own = (jnp.arange(scores.shape[-2]) + bounded(scoring.get("query_offset", 0))) // block_size  # query
    is_own = with_rank(own[:, None] == block[None], gate.ndim)  # 1 1 query blocks
    gate = jnp.where(is_own, jnp.inf, gate)
    chosen = top_k_mask(gate, num_blocks, count > 0.0)  # batch heads query blocks
    return masked_softmax(scores, visible & chosen[..., block_of])


@checked
class MixtureOfBlockAttention(SelfAttentionFrame):
    """Causal multi-head self-attention to a few selected blocks of keys (Lu et al. 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads, each with its own selection; must divide `embed_dim`.
        block_size: number of keys in a block.
        num_blocks: number of visible blocks, including the query's own, as in the authors' code.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, sizes below 1, or a rate outside [0, 1).
    """

    fixed_positions = "its blocks are cut at fixed positions"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        block_size: int,
        num_blocks: int,
        *,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        check_positive(block_size=block_size, num_blocks=num_blocks)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=True, rngs=rngs, **options)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal self-attention to the query's own block and the best earlier ones.

        Only unmasked keys count in the score of a block; a fully masked block is not selected.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; combined with the causal mask. None for no mask.
            cache: KV cache of the earlier positions; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(precise(self.q_proj, x), self.head_dim)  # batch heads length head_dim
        key = split_heads(precise(self.k_proj, x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        weights = block_attention_weights(
            seen.query,
            seen.key,
            seen.bias,
            seen.mask,
            block_size=self.block_size,
            num_blocks=self.num_blocks,
            **seen.scoring,
        )  # batch heads length length
        heads = seen.read(weights)  # batch heads length head_dim
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show two heads whose queries attend to their own block of two words and one more."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "old", "cat", "sat", "very", "still"]
    attention = MixtureOfBlockAttention(
        embed_dim=6, num_heads=2, block_size=2, num_blocks=2, rngs=nnx.Rngs(0)
    )
    show("MixtureOfBlockAttention", fill(attention)(draw(1, 6, 6)), words, words)


if __name__ == "__main__":
    main()
