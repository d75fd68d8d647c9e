r"""Cosine attention: scores are scaled cosine similarities of queries and keys (Luo et al. 2018).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(\tau_h \cos(Q_h, K_h) + B\right) V_h, \qquad
   \tau_h = \min\!\left(e^{t_h}, \tau_{\max}\right) $$

One change from `MultiHeadSelfAttention`: queries and keys are normalised to unit length, and a learned scale per head
replaces $1 / \sqrt{d}$ (Liu et al. 2022, Swin Transformer V2).

| symbol         | argument      |                                                          |
|----------------|---------------|----------------------------------------------------------|
| $t_h$          |               | parameter `logit_scale`, one per head; initially log 10  |
| $\tau_{\max}$  | `max_scale`   | upper bound of the scale, and so of the scores           |
| B              | `position`    | bias of a positional encoding that adds one              |
"""

import math
from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.caches import KeyValue
from jax_attention.frame import Placing, SelfAttentionFrame, SelfCall, grouped_heads
from jax_attention.layers import Factory, constant_parameter
from jax_attention.ops import at_least_float32, merge_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput


@checked
def unit_vectors(x: Float[Array, "... dim"], *, eps: float = 1e-12) -> Float[Array, "... dim"]:
    """Normalise vectors to unit length along the last axis: x / max(|x|, eps), in at least float32."""
    x = at_least_float32(x)
    # The bound is inside the square root, so that the gradient at a zero vector is finite.
    return x / jnp.sqrt(jnp.clip((x * x).sum(axis=-1, keepdims=True), min=eps * eps))


@checked
class CosineAttention(SelfAttentionFrame):
    """Multi-head self-attention with cosine scores and a learned, bounded scale per head (Liu et al. 2022).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        max_scale: upper bound of the learned scale.
        position: positional encoding, applied before the normalisation; None for none.
        is_causal: whether each position attends only to itself and earlier positions.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, a `max_scale` that is not positive, or a rate
            outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        max_scale: float = 100.0,
        is_causal: bool = False,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Placing],
    ):
        heads = grouped_heads(embed_dim, num_heads)
        if not max_scale > 0.0:
            raise ValueError(f"max_scale must be positive, got {max_scale}")
        super().__init__(
            embed_dim, num_heads, heads.head_dim, is_causal=is_causal, scale=1.0, rngs=rngs, **options
        )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.max_scale = max_scale
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = heads.projections(bias=bias, **factory)
        self.logit_scale = constant_parameter(num_heads, value=math.log(10.0), **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply self-attention with scaled cosine scores.

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
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        seen = self.see(query, KeyValue(key, value), mask, **call)
        exponent = jnp.clip(at_least_float32(self.logit_scale[...]), max=math.log(self.max_scale))  # heads
        seen = seen._replace(
            query=jnp.exp(exponent)[None, :, None, None] * unit_vectors(seen.query),
            key=unit_vectors(seen.key),
            value=at_least_float32(seen.value),
        )
        heads, weights = seen.attend()
        return seen.answer(self.out_proj(merge_heads(heads.astype(value.dtype))), weights)


def main() -> None:
    """Show that scaling the input by ten leaves the weights unchanged."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat"]
    x = draw(1, 3, 8)
    attention = fill(CosineAttention(embed_dim=8, num_heads=2, bias=False, rngs=nnx.Rngs(0)))
    show("CosineAttention", attention(x), words, words)
    show("CosineAttention, x ten times as large", attention(10.0 * x), words, words)


if __name__ == "__main__":
    main()
