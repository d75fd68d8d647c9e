r"""Linformer: keys and values are projected to a shorter length (Wang et al. 2020).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(Q_h (E^\top K_h)^\top / \sqrt{d}\right) F^\top V_h $$

One change from `MultiHeadSelfAttention`: a query attends to m linear mixtures of all positions, so the cost is linear
in the length. The weights are therefore `(batch, heads, query, m)`: their columns are mixtures instead of positions,
and no key can be masked for a single query. With E = F the identity it is `MultiHeadSelfAttention`.

| symbol | argument or parameter |                                                                |
|--------|-----------------------|----------------------------------------------------------------|
| n      | `length`              | maximum; shorter sequences use the first rows of E and F       |
| m      | `projected_length`    |                                                                |
| E, F   | `key_mixtures`, `value_mixtures` | `(n, m)`, shared by all heads                       |
"""

import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import (
    check_divisible,
    check_keep,
    check_key_mask,
    check_positive,
    check_sequence,
)
from jax_attention.layers import Dropout, Factory, linear, parameter
from jax_attention.ops import at_least_float32, attend, merge_heads, split_heads
from jax_attention.ops.arrays import proven_at_most
from jax_attention.outputs import AttentionOutput
from jax_attention.positions.protocol import check_positions, check_scheme, place
from jax_attention.positions.rotary import RotaryEmbedding


@checked
def mix_positions(
    x: Float[Array, "batch heads length head_dim"], mixtures: Float[Array, "length projected"]
) -> Float[Array, "batch heads projected head_dim"]:
    """Linear mixtures of positions, one for each column of `mixtures`."""
    x, mixtures = at_least_float32(x), at_least_float32(mixtures)
    return einsum("bhnd,nm->bhmd", x, mixtures)


@checked
class LinformerAttention(nnx.Module):
    """Multi-head self-attention to a few linear mixtures of all positions (Wang et al. 2020).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        length: maximum length of a sequence.
        projected_length: number of mixtures; at most `length`.
        position: rotary embedding of queries and keys, applied before the mixing; None for none.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, sizes below 1, `projected_length` above `length`, or a rate outside [0,
            1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        length: int,
        projected_length: int,
        *,
        position: RotaryEmbedding | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(projected_length=projected_length)
        if projected_length > length:
            raise ValueError(f"projected_length must be at most length={length}, got {projected_length}")
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.length = length
        self.projected_length = projected_length
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.key_mixtures = parameter(length, projected_length, std=projected_length**-0.5, **factory)
        self.value_mixtures = parameter(length, projected_length, std=projected_length**-0.5, **factory)
        self.position = position
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length projected"] | None = None,
    ) -> AttentionOutput:
        """Apply attention from every position to the mixtures.

        Args:
            x: input sequence, `(batch, length, embed_dim)`, at most `length` long.
            mask: boolean mask, `(batch, 1, 1, length)`, True for positions that enter the mixtures; None for no mask.
            positions: position of each element, for `position`; None counts from 0.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, projected_length)`. If all positions
            are masked, the weights, and the output before its projection, are zero.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a sequence longer than `length`.
        """
        check_sequence("x", x, self.embed_dim)
        batch, length = x.shape[:2]
        if not proven_at_most(length, self.length):
            raise ValueError(f"x must be at most length={self.length} long, got {length}")
        check_key_mask(mask, batch, length)
        check_keep(dropout_keep, (batch, self.num_heads, length, self.projected_length))
        check_positions("positions", positions, x, self.position)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        query, key, _ = place(self.position, query, key, positions, positions)
        some = None
        if mask is not None:
            shown = rearrange(mask, "b x y n -> b x n y")  # batch 1 length 1
            key, value = jnp.where(shown, key, 0.0), jnp.where(shown, value, 0.0)
            some = repeat(mask.any(axis=-1), "b x y -> b x y m", m=self.projected_length)
        mixed_key = mix_positions(key, self.key_mixtures[...][:length])  # batch heads projected head_dim
        mixed_value = mix_positions(
            value, self.value_mixtures[...][:length]
        )  # batch heads projected head_dim
        heads, weights = attend(
            at_least_float32(query),
            mixed_key,
            mixed_value,
            None,
            some,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, mixed_key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        return AttentionOutput(self.out_proj(merge_heads(heads.astype(x.dtype))), weights)


def main() -> None:
    """Show two heads that attend to three mixtures of five words."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "old", "cat", "sat", "still"]
    attention = fill(
        LinformerAttention(embed_dim=6, num_heads=2, length=5, projected_length=3, rngs=nnx.Rngs(0))
    )
    show("LinformerAttention", attention(draw(1, 5, 6)), words, ["one", "two", "three"])


if __name__ == "__main__":
    main()
