r"""Hierarchical attention pooling: a sequence is averaged with learned weights (Yang et al. 2016).

$$ u_t = \tanh(W h_t + b), \qquad \alpha_t = \mathrm{softmax}_t(u_t^\top u_w), \qquad s = \sum_t \alpha_t h_t $$

One change from `BasicAttention`: the query is a learned vector $u_w$, the same for every sequence. In the paper it
encodes the question "which word is informative?". The class pools one level. A document model uses one instance to pool
the words of each sentence, and a second one to pool the sentences of each document.

| symbol | argument or parameter                                        |
|--------|--------------------------------------------------------------|
| h      | `x`: in the paper the states of a recurrent network          |
| W, b   | `hidden_proj`                                                |
| u_w    | `score_proj`                                                 |
| s      | the output                                                   |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_key_mask, check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.ops import score_attention
from jax_attention.outputs import AttentionOutput


@checked
class HierarchicalAttentionPooling(nnx.Module):
    """Weighted mean of a sequence, scored against a learned query (Yang et al. 2016).

    Args:
        embed_dim: features of input and output.
        hidden_dim: features of the hidden layer.
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.hidden_proj = linear(embed_dim, hidden_dim, **factory)
        self.score_proj = linear(hidden_dim, 1, bias=False, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        need_weights: bool = True,
    ) -> AttentionOutput:
        """Pool each sequence into one vector.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True for elements and False for padding, as made by `padding_mask`; None for no mask.
            need_weights: whether to return the attention weights.

        Returns:
            Output `(batch, 1, embed_dim)` and weights `(batch, 1, length)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.embed_dim)
        check_key_mask(mask, *x.shape[:2])
        hidden = jnp.tanh(self.hidden_proj(x))  # batch length hidden
        scores = self.score_proj(hidden).swapaxes(1, 2)  # batch 1 length
        return score_attention(scores, x, mask, need_weights=need_weights)


def main() -> None:
    """Pool the words of two sentences, then the two sentences of their document."""
    from jax_attention.demonstration import draw, fill, show

    words = ["good", "plain", "food", "<pad>"], ["dull", "cold", "slow", "staff"]
    x = draw(2, 4, 6)
    mask = jnp.asarray([[[[word != "<pad>" for word in sentence]]] for sentence in words])
    of_words = fill(HierarchicalAttentionPooling(embed_dim=6, hidden_dim=5, rngs=nnx.Rngs(0)))
    of_sentences = fill(HierarchicalAttentionPooling(embed_dim=6, hidden_dim=4, rngs=nnx.Rngs(0)))
    for number, sentence in enumerate(words):
        one = slice(number, number + 1)
        show(f"sentence {number}", of_words(x[one], mask[one]), ["pooled"], sentence)
    sentences = of_words(x, mask).output.swapaxes(0, 1)  # 1 sentences embed
    show("document", of_sentences(sentences), ["pooled"], ["first", "second"])


if __name__ == "__main__":
    main()
