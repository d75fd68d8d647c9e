r"""Attention with learned sinks: a head may attend to no key (gpt-oss, OpenAI 2025; after Miller 2023).

$$ \alpha_{ij} = \frac{\exp(s_{ij})}{\exp(b_h) + \sum_{j'} \exp(s_{ij'})}, \qquad
   s_{ij} = q_i^\top k_j / \sqrt{d}, \qquad o_i = \sum_j \alpha_{ij} v_j $$

One change from `GroupedQueryAttention`: the softmax also runs over one learned score per head, the sink, whose weight
is then dropped. The weights of a row sum to less than 1, and to nearly 0 where no key scores above the sink. b_h = 0
gives the "softmax off by one"; as b_h decreases, the result approaches `GroupedQueryAttention`.

| symbol | argument       |                                                           |
|--------|----------------|-----------------------------------------------------------|
| b_h    | `sinks`        | parameter, one per head, in units of the scaled scores     |
| d      | `head_dim`     |                                                           |
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.caches import KeyValue
from jax_attention.checks import check_window
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, parameter
from jax_attention.ops import merge_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput


@checked
class LearnedSinkAttention(SelfAttentionFrame):
    """Multi-head self-attention with a learned sink logit per head in the softmax (gpt-oss, OpenAI 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads; must divide `num_heads`; None for `num_heads`.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        window: number of visible keys, including the query's own; None for no limit. Needs `is_causal`. In gpt-oss,
            every other layer has a window.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        bias: whether the projections have biases.
        out_bias: whether the output projection has a bias; None means the same as `bias`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a window below 1 or without `is_causal`, sizes that do not divide, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        is_causal: bool = False,
        window: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        check_window(window, is_causal)
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads, head_dim)
        super().__init__(
            embed_dim, num_heads, heads.head_dim, is_causal=is_causal, window=window, rngs=rngs, **options
        )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        projections = heads.projections(bias=bias, out_bias=out_bias, **factory)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections
        self.sinks = parameter(num_heads, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with a learned sink in each head.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            cache: KV cache of the earlier positions, if `is_causal`; None without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch kv_heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        heads, weights = seen.attend(sinks=self.sinks[...])
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show the attention weights and the weight that each row gives to its sink."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    attention = fill(LearnedSinkAttention(embed_dim=6, num_heads=2, rngs=nnx.Rngs(0)))
    result = attention(draw(1, 3, 6))
    show("LearnedSinkAttention", result, words, words)
    assert result.weights is not None
    for number, head in enumerate(result.weights[0].sum(-1).tolist()):
        print(f"head {number}, weight of the sink:", " ".join(f"{1.0 - seen:.3f}" for seen in head))


if __name__ == "__main__":
    main()
