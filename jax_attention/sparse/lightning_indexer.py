r"""Lightning indexer: a small attention that scores which keys to attend to (DeepSeek-V3.2, 2025).

$$ I_{ts} = H^{-1/2} \sum_{h=1}^{H} w_{th}\, \mathrm{ReLU}\!\left({q^I_{th}}^\top k^I_s / \sqrt{d}\right), \qquad
   w_t = W_w x_t, \quad q^I_{th} = R_t W_{q,h}\, c_t, \quad k^I_s = R_s\, \mathrm{LayerNorm}(W_k x_s) $$

There are no values and no softmax, all heads share one key per position, and the heads are few and small, so scores are
cheap. `DeepSeekSparseAttention` attends to the keys with the highest scores.

| symbol | argument or parameter                                                                       |
|--------|---------------------------------------------------------------------------------------------|
| H      | `num_heads`                                                                                 |
| d      | `head_dim`                                                                                  |
| c      | `asked`, with `query_dim` features: the query latent in DeepSeek's models; or x itself      |
| R      | `position`: in DeepSeek's models, half-split rotation of the first features                 |
| W_w    | `weight_proj`                                                                               |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jax_attention.activations import relu
from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_positive, check_sequence
from jax_attention.layers import Factory, linear, precise
from jax_attention.norms import layer_norm, normalise
from jax_attention.ops import at_least_float32, split_heads
from jax_attention.positions.protocol import check_positions, check_scheme, place
from jax_attention.positions.rotary import RotaryEmbedding


@checked
def lightning_scores(
    query: Float[Array, "batch heads query head_dim"],
    key: Float[Array, "batch key head_dim"],
    head_weights: Float[Array, "batch query heads"],
) -> Float[Array, "batch query key"]:
    """Score each key for each query: a weighted sum over heads of the rectified dot products.

    Args:
        query: queries, `(batch, heads, query_len, head_dim)`.
        key: keys, `(batch, key_len, head_dim)`, shared by all heads.
        head_weights: weight of each head for each query, positive or negative.

    Returns:
        Scores `(batch, query_len, key_len)` in at least float32.
    """
    query, key, head_weights = map(at_least_float32, (query, key, head_weights))
    num_heads, head_dim = query.shape[1], query.shape[-1]
    scores = einsum("bhqd,bkd->bhqk", query, key) * head_dim**-0.5  # batch heads query key
    return einsum("bqh,bhqk->bqk", head_weights * num_heads**-0.5, relu(scores))


@checked
class LightningIndexer(nnx.Module):
    """Low-cost module that scores every key for every query (DeepSeek-AI 2025, DeepSeek-V3.2).

    DeepSeek's kernel also multiplies queries and keys by a Hadamard matrix, which changes no score, and rounds them to
    8 bits; this module keeps their precision. The projections have no biases.

    Args:
        embed_dim: features of the sequence.
        num_heads: number of query heads.
        head_dim: features of a head.
        query_dim: features of the input of the query projection; None projects queries from the sequence.
        position: rotary embedding of queries and keys: `RotaryEmbedding(head_dim, rotary_dim=64)` in DeepSeek-V3.2;
            None for none.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        query_dim: int | None = None,
        position: RotaryEmbedding | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(num_heads=num_heads, head_dim=head_dim)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.query_dim = query_dim
        self.head_dim = head_dim
        asked_dim = embed_dim if query_dim is None else query_dim
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
        self.q_proj = linear(asked_dim, num_heads * head_dim, bias=False, **factory)
        self.k_proj = linear(embed_dim, head_dim, bias=False, **factory)
        self.k_norm = layer_norm(head_dim, eps=1e-6, **factory)
        self.weight_proj = linear(embed_dim, num_heads, bias=False, **factory)
        self.position = position

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        asked: Float[Array, "batch length query_dim"] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
    ) -> Float[Array, "batch length length"]:
        """Score every key for every query.

        The scores are differentiable, so that they can be trained to match the weights of full attention.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            asked: input of the query projection, `(batch, length, query_dim)`; None for `x`.
            positions: position of each element, for `position`; None counts from 0.

        Returns:
            Scores `(batch, query, key)` in at least float32, without a mask.

        Raises:
            ValueError: shapes that do not fit, or positions without a `position`.
        """
        check_sequence("x", x, self.embed_dim)
        asked = x if asked is None else asked
        asked_dim = self.embed_dim if self.query_dim is None else self.query_dim
        check_sequence("asked", asked, asked_dim, batch=x.shape[0])
        check_positions("positions", positions, x, self.position)
        return self.scores(x, asked, self.keys(x), positions, positions)

    def keys(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length head_dim"]:
        """Project the keys, before positional encoding."""
        return normalise(self.k_norm, precise(self.k_proj, x))

    def scores(
        self,
        x: Float[Array, "batch query embed"],
        asked: Float[Array, "batch query query_dim"],
        key: Float[Array, "batch key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Float[Array, "batch query key"]:
        """Score given keys, such as cached ones, for each position of `x`."""
        query = split_heads(precise(self.q_proj, asked), self.head_dim)  # batch heads query head_dim
        placed = place(self.position, query, key[:, None], query_positions, key_positions)
        return lightning_scores(placed.query, placed.key[:, 0], precise(self.weight_proj, x))


def main() -> None:
    """Show the key scores of an indexer with two heads."""
    from jax_attention.demonstration import draw, fill

    words = ["the", "cat", "sat", "still"]
    rotary = RotaryEmbedding(4)
    indexer = fill(LightningIndexer(embed_dim=6, num_heads=2, head_dim=4, position=rotary, rngs=nnx.Rngs(0)))
    scores = indexer(draw(1, 4, 6))
    print(f"LightningIndexer: scores {tuple(scores.shape)}")
    for word, row in zip(words, scores[0].tolist(), strict=True):
        print(f"{word:>10}" + "".join(f"{score:8.3f}" for score in row))


if __name__ == "__main__":
    main()
