r"""Forgetting attention (FoX): data-dependent forget gates reduce the scores of earlier keys (Lin et al. 2025).

$$ \mathrm{head}_h = \mathrm{softmax}\!\left(Q_h K_h^\top / \sqrt{d} + D_h\right) V_h, \qquad
   D_{h,ij} = \sum_{l = j + 1}^{i} \log f_{h,l}, \qquad f_{h,l} = \sigma(w_h \cdot x_l + b_h) $$

One change from `CausalSelfAttention`: the bias D, which is zero on the diagonal and decreases with every forget gate f
between key j and query i. Constant gates give ALiBi with the slope -log f.

| symbol | parameter     |                                          |
|--------|---------------|------------------------------------------|
| w, b   | `forget_proj` | one forget gate per head, always biased  |
"""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.activations import softplus
from jax_attention.arguments import checked
from jax_attention.checks import check_divisible
from jax_attention.frame import Scaling, SelfAttentionFrame, SelfCall
from jax_attention.layers import Factory, linear
from jax_attention.ops import at_least_float32, merge_heads, split_heads
from jax_attention.outputs import AttentionOutput, CachedOutput


class Remembered(NamedTuple):
    """Cache entries of forgetting attention.

    Attributes:
        key, value: as in `KeyValue`.
        log_forget: logarithm of the forget gates, `(batch, heads, length, 1)`, in at least float32.
    """

    key: Float[Array, "batch heads length head_dim"]
    value: Float[Array, "batch heads length value_dim"]
    log_forget: Float[Array, "batch heads length 1"]


@checked
def forgetting_bias(
    log_forget: Float[Array, "batch heads key 1"], query_len: int, query_offset: int | Int[Array, ""] = 0
) -> Float[Array, "batch heads query key"]:
    """Bias of each query-key pair: the summed log forget gates after key j up to query i (Lin et al. 2025, eq. 5).

    Entries above the diagonal are undefined; a causal mask hides them.

    Args:
        log_forget: logarithm of the forget gates of all keys, `(batch, heads, key, 1)`.
        query_len: number of queries.
        query_offset: key position of the first query.
    """
    totals = jnp.cumsum(at_least_float32(log_forget)[..., 0], axis=-1)  # batch heads key
    queries = jnp.arange(query_len) + query_offset  # query
    return totals[..., queries][..., None] - totals[..., None, :]


@checked
class ForgettingAttention(SelfAttentionFrame):
    """Causal multi-head self-attention with a forget gate (Lin et al. 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        position: positional encoding in addition to the gates, such as `RotaryEmbedding`; None for none.
        bias: whether the query, key, value and output projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
        **options: Unpack[Scaling],
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        super().__init__(embed_dim, num_heads, embed_dim // num_heads, is_causal=True, rngs=rngs, **options)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.forget_proj = linear(embed_dim, num_heads, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal self-attention with forget gates.

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
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        key = split_heads(self.k_proj(x), self.head_dim)  # batch heads length head_dim
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        # log sigmoid(z) = -softplus(-z)
        log_forget = -softplus(-split_heads(at_least_float32(self.forget_proj(x)), 1))  # batch heads length 1
        seen = self.see(query, Remembered(key, value, log_forget), mask, **call)
        bias = forgetting_bias(
            seen.entries.log_forget, x.shape[1], seen.scoring["query_offset"]
        )  # batch heads length slots
        heads, weights = seen.with_bias(bias).attend()
        return seen.answer(self.out_proj(merge_heads(heads)), weights)


def main() -> None:
    """Show the forget gates of a sentence and the resulting attention weights."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    x = draw(1, 4, 8)
    attention = fill(ForgettingAttention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0)))
    show("ForgettingAttention", attention(x), words, words)
    forget = jax.nn.sigmoid(attention.forget_proj(x))[0]  # length heads
    for word, gates in zip(words, forget.tolist(), strict=True):
        print(f"forget gates at {word}:", " ".join(f"{gate:.3f}" for gate in gates))


if __name__ == "__main__":
    main()
