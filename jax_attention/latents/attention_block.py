r"""Multihead attention block of the Set Transformer: attention from set to set, then an MLP (Lee et al. 2019).

$$ \mathrm{MAB}(X, Y) = \mathrm{LN}(H + f(H)), \qquad H = \mathrm{LN}(X + \mathrm{Multihead}(X, Y, Y)) $$

One change from `MultiHeadCrossAttention` inside: the scores are divided by √d with d the total number of features
instead of the features of one head, so the weights are less peaked. The block is equivariant to permutations of X and
invariant to permutations of Y.

| symbol | argument or parameter    |                                                            |
|--------|--------------------------|------------------------------------------------------------|
| X, Y   | `query`, `memory`        | sets of vectors                                            |
| d      | `embed_dim`              |                                                            |
| f      | `ffn_proj`, `activation` | an element-wise linear map and activation                  |

The authors' code differs from the paper: it has no output projection, and adds the projected queries instead of X. This
file follows the paper.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.activations import activation_function
from jax_attention.arguments import checked
from jax_attention.checks import check_divisible, check_pairs, check_sequence
from jax_attention.layers import Dropout, Factory, linear
from jax_attention.norms import layer_norm, normalise
from jax_attention.ops import attend, merge_heads, split_heads
from jax_attention.outputs import AttentionOutput


@checked
class MultiheadAttentionBlock(nnx.Module):
    """Attention from one set to another, then an element-wise MLP, each with a residual (Lee et al. 2019, eq. 6).

    Args:
        embed_dim: features of both sets.
        num_heads: number of heads; must divide `embed_dim`.
        scale: factor on the scores; `1 / sqrt(embed_dim)` if None.
        activation: activation of the MLP: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or `"silu"`.
        norm: whether a layer norm follows each residual.
        norm_eps: constant added to the variance in each normalisation.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, an unknown activation, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        scale: float | None = None,
        activation: str = "relu",
        norm: bool = True,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = embed_dim**-0.5 if scale is None else scale
        self.q_proj = linear(embed_dim, embed_dim, **factory)
        self.k_proj = linear(embed_dim, embed_dim, **factory)
        self.v_proj = linear(embed_dim, embed_dim, **factory)
        self.out_proj = linear(embed_dim, embed_dim, **factory)
        self.ffn_proj = linear(embed_dim, embed_dim, **factory)
        self.activation = activation_function(activation)
        self.attention_norm = layer_norm(embed_dim, eps=norm_eps, **factory) if norm else None
        self.ffn_norm = layer_norm(embed_dim, eps=norm_eps, **factory) if norm else None
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "batch query embed"],
        memory: Float[Array, "batch key embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads query key"] | None = None,
    ) -> AttentionOutput:
        """Apply attention from `query` to `memory`, then the MLP.

        Args:
            query: query set, `(batch, query, embed_dim)`.
            memory: set that is attended to, `(batch, key, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, query, embed_dim)` and weights `(batch, heads, query, key)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("query", query, self.embed_dim)
        check_sequence("memory", memory, self.embed_dim, batch=query.shape[0])
        check_pairs(query, memory, mask, dropout_keep, self.num_heads)
        queries = split_heads(self.q_proj(query), self.head_dim)  # batch heads query head_dim
        keys = split_heads(self.k_proj(memory), self.head_dim)  # batch heads key head_dim
        heads, weights = attend(
            queries,
            keys,
            split_heads(self.v_proj(memory), self.head_dim),  # batch heads key head_dim
            mask=mask,
            scale=self.scale,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(queries, keys, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        hidden = _normalised(
            self.attention_norm, query + self.out_proj(merge_heads(heads))
        )  # batch query embed
        hidden = hidden + self.activation(self.ffn_proj(hidden))  # batch query embed
        return AttentionOutput(_normalised(self.ffn_norm, hidden), weights)


def _normalised(norm: nnx.Module | None, x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x if norm is None else normalise(norm, x)


def main() -> None:
    """Show the attention from one set to another."""
    from jax_attention.demonstration import draw, fill, show

    block = fill(MultiheadAttentionBlock(embed_dim=4, num_heads=2, rngs=nnx.Rngs(0)))
    show("MultiheadAttentionBlock", block(draw(1, 2, 4), draw(1, 3, 4, seed=1)), ["x", "y"], ["a", "b", "c"])


if __name__ == "__main__":
    main()
