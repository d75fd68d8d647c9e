r"""Set Transformer: attention over unordered sets (Lee et al. 2019).

$$ \mathrm{SAB}(X) = \mathrm{MAB}(X, X), \qquad \mathrm{ISAB}(X) = \mathrm{MAB}(X, \mathrm{MAB}(I, X)), \qquad
   \mathrm{PMA}(Z) = \mathrm{MAB}(S, f(Z)) $$

There are three uses of one `MultiheadAttentionBlock`. SAB applies self-attention to a set. ISAB attends through m
learned inducing points, at a cost linear in the number of elements. PMA pools a set into k vectors. SAB and ISAB are
equivariant to permutations of the elements, and PMA is invariant.

| symbol | argument or parameter    |                                                            |
|--------|--------------------------|------------------------------------------------------------|
| I      | `inducing_points`        | `(num_inducing, embed_dim)`, learned                       |
| S      | `seeds`                  | `(num_seeds, embed_dim)`, learned                          |
| f      | `ffn_proj`, `activation` | an element-wise linear map and activation                  |

The authors' code omits f(Z); this file follows the paper.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.activations import activation_function
from jax_attention.arguments import checked
from jax_attention.checks import check_keep, check_key_mask, check_positive, check_sequence
from jax_attention.latents.attention_block import MultiheadAttentionBlock
from jax_attention.latents.learned import check_masks, for_each_element
from jax_attention.layers import Factory, linear, parameter
from jax_attention.outputs import AttentionOutput


class InducedOutput(NamedTuple):
    """Result of induced set attention: `output, weights, inducing_weights = block(x)`.

    Attributes:
        output: output set, `(batch, length, embed)`.
        weights: weights of the elements over the inducing points, `(batch, heads, length, inducing)`; None with
            `need_weights=False`.
        inducing_weights: weights of the inducing points over the elements, `(batch, heads, inducing, length)`; None
            with `need_weights=False`.
    """

    output: Float[Array, "batch length embed"]
    weights: Float[Array, "batch heads length inducing"] | None
    inducing_weights: Float[Array, "batch heads inducing length"] | None


class InducedKeep(NamedTuple):
    """Boolean dropout masks of `InducedSetAttentionBlock`, True keeps; None samples a mask in training.

    Attributes:
        weights: mask of the elements over the inducing points, `(batch, heads, length, inducing)`.
        inducing_weights: mask of the inducing points over the elements, `(batch, heads, inducing, length)`.
    """

    weights: Bool[Array, "batch heads length inducing"] | None = None
    inducing_weights: Bool[Array, "batch heads inducing length"] | None = None


@checked
class SetAttentionBlock(nnx.Module):
    """Self-attention over a set: MAB(X, X) (Lee et al. 2019, eq. 8).

    Args:
        embed_dim, num_heads, activation, norm, dropout: as in `MultiheadAttentionBlock`.

    Raises:
        ValueError: as in `MultiheadAttentionBlock`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        activation: str = "relu",
        norm: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.block = MultiheadAttentionBlock(
            embed_dim, num_heads, activation=activation, norm=norm, dropout=dropout, **factory
        )

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Apply self-attention to a set.

        Args:
            x: input set, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`.
        """
        check_sequence("x", x, self.block.embed_dim)
        return self.block(x, x, mask, need_weights=need_weights, dropout_keep=dropout_keep)


@checked
class InducedSetAttentionBlock(nnx.Module):
    """Set attention through learned inducing points: MAB(X, MAB(I, X)) (Lee et al. 2019, eq. 9 and 10).

    Args:
        embed_dim, num_heads, activation, norm, dropout: as in `MultiheadAttentionBlock`.
        num_inducing: number of inducing points.

    Raises:
        ValueError: as in `MultiheadAttentionBlock`, or `num_inducing` below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_inducing: int,
        *,
        activation: str = "relu",
        norm: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(num_inducing=num_inducing)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.num_inducing = num_inducing
        self.inducing_points = parameter(num_inducing, embed_dim, **factory)
        self.inducing_block = MultiheadAttentionBlock(
            embed_dim, num_heads, activation=activation, norm=norm, dropout=dropout, **factory
        )
        self.block = MultiheadAttentionBlock(
            embed_dim, num_heads, activation=activation, norm=norm, dropout=dropout, **factory
        )

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "#batch 1 1 length"] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: InducedKeep | None = None,
    ) -> InducedOutput:
        """Apply attention from the inducing points to the set, and from the set to the inducing points.

        Args:
            x: input set, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, True for visible elements; None for no mask.
                `padding_mask(tokens, pad_id)` makes one for padded batches.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout masks, True keeps; used instead of sampling them.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.block.embed_dim)
        batch, length, _ = x.shape
        check_key_mask(mask, batch, length)
        keep = dropout_keep or InducedKeep()
        num_heads = self.block.num_heads
        check_keep(keep.weights, (batch, num_heads, length, self.num_inducing))
        check_keep(keep.inducing_weights, (batch, num_heads, self.num_inducing, length))
        points = for_each_element(self.inducing_points[...], batch)  # batch inducing embed
        summary, inducing_weights = self.inducing_block(
            points, x, mask, need_weights=need_weights, dropout_keep=keep.inducing_weights
        )  # batch inducing embed
        output, weights = self.block(x, summary, need_weights=need_weights, dropout_keep=keep.weights)
        return InducedOutput(output, weights, inducing_weights)


@checked
class PoolingByAttention(nnx.Module):
    """Pooling by multihead attention with learned seeds: MAB(S, f(Z)) (Lee et al. 2019, eq. 11).

    Args:
        embed_dim, num_heads, activation, norm, dropout: as in `MultiheadAttentionBlock`.
        num_seeds: number of seeds, and so of output vectors.

    Raises:
        ValueError: as in `MultiheadAttentionBlock`, or `num_seeds` below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_seeds: int = 1,
        *,
        activation: str = "relu",
        norm: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(num_seeds=num_seeds)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.num_seeds = num_seeds
        self.seeds = parameter(num_seeds, embed_dim, **factory)
        self.ffn_proj = linear(embed_dim, embed_dim, **factory)
        self.activation = activation_function(activation)
        self.block = MultiheadAttentionBlock(
            embed_dim, num_heads, activation=activation, norm=norm, dropout=dropout, **factory
        )

    def __call__(
        self,
        x: Float[Array, "batch key embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads seeds key"] | None = None,
    ) -> AttentionOutput:
        """Pool a set by attention from the seeds.

        Args:
            x: input set, `(batch, key, embed_dim)`.
            mask: boolean mask, True where a seed may attend to a key; None for no mask.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, num_seeds, embed_dim)` and weights `(batch, heads, num_seeds, key)`.
        """
        check_sequence("x", x, self.block.embed_dim)
        check_masks(x, self.num_seeds, self.block.num_heads, mask, dropout_keep)
        seeds = for_each_element(self.seeds[...], x.shape[0])  # batch seeds embed
        elements = self.activation(self.ffn_proj(x))  # batch key embed
        return self.block(seeds, elements, mask, need_weights=need_weights, dropout_keep=dropout_keep)


def main() -> None:
    """Show the weights of set elements over two inducing points, and of a seed over the elements."""
    from jax_attention.demonstration import draw, fill, show

    elements, points = ["a", "b", "c"], ["one", "two"]
    x = draw(1, 3, 4)
    output, weights, _ = fill(
        InducedSetAttentionBlock(embed_dim=4, num_heads=1, num_inducing=2, rngs=nnx.Rngs(0))
    )(x)
    show("InducedSetAttentionBlock", AttentionOutput(output, weights), elements, points)
    show(
        "PoolingByAttention",
        fill(PoolingByAttention(embed_dim=4, num_heads=2, rngs=nnx.Rngs(0)))(x),
        ["seed"],
        elements,
    )


if __name__ == "__main__":
    main()
