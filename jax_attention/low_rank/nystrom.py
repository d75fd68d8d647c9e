r"""Nyström attention: softmax attention approximated with a few landmarks (Nyströmformer: Xiong et al. 2021).

$$ \hat S = \mathrm{softmax}(s\,Q \tilde K^\top)\; Z\; \mathrm{softmax}(s\,\tilde Q K^\top), \qquad
   Z \approx \mathrm{softmax}(s\,\tilde Q \tilde K^\top)^{+}, \qquad \mathrm{head} = \hat S V + \mathrm{conv}(V) $$

One change from `MultiHeadSelfAttention`: the weight matrix is approximated from its rows and columns at m landmarks,
the means of equal segments, so the cost is linear in the length. Approximate weights may be negative, and rows need not
sum to one. With a landmark at every position, the weights equal softmax attention up to the error of the
pseudo-inverse.

| symbol                 | argument         |                                                             |
|------------------------|------------------|-------------------------------------------------------------|
| m                      | `num_landmarks`  | must divide the length                                      |
| $\tilde Q$, $\tilde K$ |                  | means over the visible positions of each segment            |
| Z                      | `num_iterations` | steps of $Z \gets Z (13 I - AZ (15 I - AZ (7 I - AZ))) / 4$ |
| conv                   | `kernel_size`    | along the length, one kernel per head; None for none        |
| s                      |                  | $1/\sqrt{d}$                                                |
"""

import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import matmul, with_rank
from jax_attention.checks import check_divisible, check_key_mask, check_positive, check_sequence
from jax_attention.layers import Factory, conv1d, convolve, linear
from jax_attention.ops import (
    at_least_float32,
    dot_product_attention_weights,
    merge_heads,
    split_heads,
)
from jax_attention.outputs import AttentionOutput
from jax_attention.positions.protocol import check_positions, check_scheme, place
from jax_attention.positions.rotary import RotaryEmbedding


@checked
def iterative_pseudo_inverse(
    matrix: Float[Array, "... rows columns"], num_iterations: int = 6
) -> Float[Array, "... columns rows"]:
    """Approximate the Moore-Penrose inverse with matrix products alone (Razavi et al. 2014).

    The iteration for each matrix A starts from Aᵀ, divided by the product of its largest absolute row and column sums.
    Each matrix uses its own sums, so that results do not depend on other batch elements or heads (transformers uses the
    largest sums of the whole batch). Convergence is cubic once the error is small. More iterations then do harm: for a
    rank-deficient matrix, rounding errors grow by a factor of 13/4 per step. The inverse of a zero matrix is zero.

    Args:
        matrix: matrices to invert, `(..., rows, columns)`.
        num_iterations: number of iterations.
    """
    sizes = jnp.abs(matrix)
    norm = jnp.amax(sizes.sum(-2), axis=-1) * jnp.amax(sizes.sum(-1), axis=-1)  # ...
    norm = jnp.where(norm > 0.0, norm, 1.0)[..., None, None]
    inverse = matrix.swapaxes(-1, -2) / norm  # ... columns rows
    identity = with_rank(jnp.eye(matrix.shape[-2], dtype=matrix.dtype), matrix.ndim)
    for _ in range(num_iterations):
        product = matmul(matrix, inverse)  # ... rows rows
        inner = 15.0 * identity - matmul(product, 7.0 * identity - product)
        inverse = matmul(0.25 * inverse, 13.0 * identity - matmul(product, inner))
    return inverse


@checked
def segment_means(
    x: Float[Array, "batch heads length head_dim"],
    num_segments: int,
    mask: Bool[Array, "#batch 1 length 1"] | None = None,
) -> Float[Array, "batch heads segments head_dim"]:
    """Mean of the visible positions in each of `num_segments` equal segments; zero if all are masked."""
    if mask is None:
        return reduce(x, "b h (m l) d -> b h m d", "mean", m=num_segments)
    total = reduce(jnp.where(mask, x, 0.0), "b h (m l) d -> b h m d", "sum", m=num_segments)
    count = reduce(mask.astype(x.dtype), "b h (m l) d -> b h m d", "sum", m=num_segments)
    return total / jnp.clip(count, min=1.0)


@checked
class NystromAttention(nnx.Module):
    """Multi-head self-attention approximated with landmarks (Nyströmformer: Xiong et al. 2021).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        num_landmarks: number of landmarks; must divide the length.
        num_iterations: number of iterations of the pseudo-inverse.
        kernel_size: odd kernel size of an added convolution of the values; None for none.
        position: rotary embedding of queries and keys, applied before the means; None for none.
        bias: whether the projections have biases; the convolution has none.

    Raises:
        ValueError: sizes that do not divide, sizes below 1, or an even kernel.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_landmarks: int,
        *,
        num_iterations: int = 6,
        kernel_size: int | None = None,
        position: RotaryEmbedding | None = None,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(num_landmarks=num_landmarks, num_iterations=num_iterations)
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise ValueError(f"kernel_size must be odd, or None, got {kernel_size}")
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.num_landmarks = num_landmarks
        self.num_iterations = num_iterations
        self.kernel_size = kernel_size
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.position = position
        if kernel_size is not None:
            self.value_conv = conv1d(
                num_heads,
                num_heads,
                kernel_size,
                padding=kernel_size // 2,
                groups=num_heads,
                bias=False,
                **factory,
            )

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput:
        """Apply approximate self-attention through the landmarks.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, True for visible positions; None for no mask. Landmarks do not
                include masked positions.
            positions: position of each element, for `position`; None counts from 0.
            need_weights: whether to return the attention weights; without them, no matrix of all pairs is computed.

        Returns:
            Output `(batch, length, embed_dim)` and approximate weights `(batch, heads, length, length)`, without the
            convolution.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a length that is not a multiple of `num_landmarks`.
        """
        check_sequence("x", x, self.embed_dim)
        batch, length = x.shape[:2]
        check_divisible(length=length, num_landmarks=self.num_landmarks)
        check_key_mask(mask, batch, length)
        check_positions("positions", positions, x, self.position)
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        query, key, _ = place(self.position, query, key, positions, positions)
        query, key, value = map(at_least_float32, (query, key, value))

        shown, landmark_mask, pair_mask = None, None, None
        if mask is not None:
            shown = rearrange(mask, "b x y n -> b x n y")  # batch 1 length 1
            value = jnp.where(shown, value, 0.0)
            landmark_mask = rearrange(mask, "b x y (m l) -> b x y m l", m=self.num_landmarks).any(axis=-1)
            pair_mask = landmark_mask & rearrange(landmark_mask, "b x y m -> b x m y")
        query_landmarks = segment_means(query, self.num_landmarks, shown)  # batch heads landmarks head_dim
        key_landmarks = segment_means(key, self.num_landmarks, shown)  # batch heads landmarks head_dim
        to_landmarks = dot_product_attention_weights(query, key_landmarks, None, landmark_mask)
        between = dot_product_attention_weights(query_landmarks, key_landmarks, None, pair_mask)
        from_landmarks = dot_product_attention_weights(query_landmarks, key, None, mask)
        joined = matmul(to_landmarks, iterative_pseudo_inverse(between, self.num_iterations))

        if need_weights:
            weights = matmul(joined, from_landmarks)  # batch heads length length
            heads = matmul(weights, value)  # batch heads length head_dim
        else:
            weights = None
            heads = matmul(joined, matmul(from_landmarks, value))  # batch heads length head_dim
        if self.kernel_size is not None and length != 0:
            rows = rearrange(value.astype(x.dtype), "b h n d -> (b d) n h")
            mixed = rearrange(convolve(self.value_conv, rows), "(b d) n h -> b h n d", d=self.head_dim)
            heads = heads + mixed.astype(heads.dtype)
        return AttentionOutput(self.out_proj(merge_heads(heads.astype(x.dtype))), weights)


def main() -> None:
    """Show two heads that approximate attention among six words with three landmarks."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "old", "cat", "sat", "very", "still"]
    attention = fill(NystromAttention(embed_dim=6, num_heads=2, num_landmarks=3, rngs=nnx.Rngs(0)))
    show("NystromAttention", attention(draw(1, 6, 6)), words, words)


if __name__ == "__main__":
    main()
