r"""What all decoders have in common: tokens in, layers, and a score of every token as the next one out.

$$ x = e \cdot s_{\mathrm{embed}}, \qquad x \leftarrow \mathrm{layer}(x), \qquad
   \mathrm{logits} = c \tanh\!\left(\mathrm{norm}(x)\, W^\top / c\right) $$

A family is a class that makes `token_embedding`, `layers`, `final_norm`, and `head` if W is not the embeddings again.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.caches import Cache
from jax_attention.checks import check_padding_mask, check_pairs, check_tokens
from jax_attention.layers import normalise, similarities
from jax_attention.outputs import CachedOutput, LanguageOutput, all_weights
from jax_attention.positions.protocol import check_shape


@checked
class LanguageModel(nnx.Module):
    """A decoder that stands alone; the base of the families in this package (Radford et al. 2019)."""

    config: Any
    token_embedding: Any
    layers: Any
    final_norm: Any
    head: Any

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
    ) -> LanguageOutput:
        """Score every token of the vocabulary as the one that comes next, behind each of the tokens.

        Args:
            tokens: token numbers, below `vocab_size`; with `caches` those that are new.
            mask: True where the query attends to the key, it can only hide more; `padding_mask(tokens, pad_id)`
                for padded batches; with `caches` `(batch, 1, 1, new)`.
            positions: where each token stands, `(length)` or `(batch, length)`; None counts on from what was read.
            caches: what each layer remembers; `(GrowingCache(),) * num_layers` at first.
            need_weights: whether to return the weights of every layer.

        Returns:
            Logits `(batch, length, vocab_size)`, the caches to go on from, or None without any, and a tuple of
            weights, one a layer, or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        read = self.read(tokens, mask, positions=positions, caches=caches, need_weights=need_weights)
        return read._replace(output=self.logits(read.output))

    @checked
    def read(
        self,
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
    ) -> LanguageOutput:
        """The vectors `(batch, length, embed)` that `logits` scores; everything else as in a call of the model."""
        check_tokens(tokens)
        check_shape("positions", positions, tokens)
        if caches is None:
            check_pairs(tokens, tokens, mask, num_heads=self.config.num_heads)
        else:
            if len(caches) != len(self.layers):
                raise ValueError(
                    f"caches must be one for each of {len(self.layers)} layers, got {len(caches)}"
                )
            check_padding_mask(mask, *tokens.shape)

        x = self.embed(tokens)  # batch length embed
        layers = []
        for layer, cache in zip(self.layers, caches or (None,) * len(self.layers), strict=True):
            layers.append(layer(x, mask, positions=positions, cache=cache, need_weights=need_weights))
            x = layers[-1].output  # batch length embed
        return LanguageOutput(
            normalise(self.final_norm, x),
            tuple(layer.cache for layer in layers if isinstance(layer, CachedOutput)) or None,
            all_weights(layer.weights for layer in layers),
        )

    @checked
    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length embed"]:
        """The vectors that the first layer reads."""
        return self.token_embedding(tokens)

    @checked
    def logits(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """The score of each token as the next one behind what `x` stands for."""
        if self.head is None:
            return similarities(self.token_embedding, x)
        return self.head(x)


@checked
def bounded(logits: Float[Array, "*batch vocab"], softcap: float | None) -> Float[Array, "*batch vocab"]:
    """Return c tanh(logits / c), which stays below the softcap c; None leaves them as they are (Gemma 2, 2024)."""
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)
