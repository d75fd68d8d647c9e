r"""Gated short convolution: a depthwise convolution between two multiplicative gates (Liquid AI 2025, LFM2).

$$ y_t = W_{\mathrm{out}} \left(C_t \odot \sum_{i=0}^{w-1} c_i \odot (B \odot X)_{t-w+1+i}\right),
   \qquad [B, C, X] = W_{\mathrm{in}}\, x $$

It is the convolution of `short_conv` without an activation, with gates in place of a recurrence: a token reads only the
w - 1 tokens before it. As linear attention with one head per feature, C is the query, B the key and X the value, and
the weights are C_t c_{w-1-(t-s)} B_s. The recurrent state is the last w - 1 inputs of the convolution.

| symbol  | argument or parameter                          |
|---------|------------------------------------------------|
| w       | `conv_width`                                   |
| c       | the weight of `conv`                           |
| B, C, X | three parts of `in_proj(x)`, in this order     |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_positive
from jax_attention.layers import Factory, conv1d, convolve, linear
from jax_attention.linear.short_conv import InputsState, cut, extended_by, visible_only
from jax_attention.linear.states import check_read
from jax_attention.outputs import AttentionOutput, RecurrentOutput


@checked
class GatedShortConvolution(nnx.Module):
    """Causal depthwise convolution over a few tokens, between two gates, as in LFM2 (Liquid AI 2025).

    Args:
        embed_dim: features of input and output.
        conv_width: width of the short convolution, in tokens.
        bias: whether the projections and the convolution have biases.

    Raises:
        ValueError: `conv_width` is below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        conv_width: int = 3,
        bias: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(conv_width=conv_width)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.conv_width = conv_width
        self.in_proj = linear(embed_dim, 3 * embed_dim, bias=bias, **factory)
        self.conv = conv1d(embed_dim, embed_dim, conv_width, groups=embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        state: InputsState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply a causal, gated short convolution.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens enter the
                short convolution as zeros.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps values to outputs.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, embed_dim, length, length)`, with one head per feature, or None.
        """
        check_read(x, self.embed_dim, mask, state, (self.conv_width - 1, self.embed_dim))
        length = x.shape[1]
        key, query, value = cut(self.in_proj(visible_only(x, mask)), *(self.embed_dim,) * 3)
        extended = extended_by(state, visible_only(key * value, mask), self.conv_width)
        mixed = query if length == 0 else query * convolve(self.conv, extended)  # batch length embed
        weights = self._weights(query, visible_only(key, mask)) if need_weights else None
        return RecurrentOutput(self.out_proj(mixed), InputsState(extended[:, length:]), weights)

    def _weights(
        self, query: Float[Array, "batch length embed"], key: Float[Array, "batch length embed"]
    ) -> Float[Array, "batch embed length length"]:
        """Attention weights: the responses of the convolution to each token, times both gates."""
        length, before = query.shape[1], self.conv_width - 1
        each = jnp.eye(length, dtype=query.dtype)[..., None]  # source length 1
        zeros = jnp.zeros((length, before, self.embed_dim), dtype=query.dtype)
        impulses = jnp.concatenate([zeros, each + jnp.zeros_like(query[:1])], axis=1)
        if length == 0:
            return einsum("btf,bsf->bfts", query, key)
        responses = convolve(self.conv, impulses) - convolve(self.conv, jnp.zeros_like(impulses))
        return einsum("btf,stf,bsf->bfts", query, responses, key)


def main() -> None:
    """Show the attention weights of the first feature of a layer."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    layer = fill(GatedShortConvolution(embed_dim=6, rngs=nnx.Rngs(0)))
    output, _, weights = layer(draw(1, 4, 6), need_weights=True)
    show("GatedShortConvolution", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
