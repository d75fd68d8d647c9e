r"""Pooling: one vector per sequence, from the vectors of its positions.

$$ \mathrm{first} = x_1, \qquad \mathrm{last} = x_n, \qquad \mathrm{mean} = \frac{1}{n} \sum_{i=1}^{n} x_i $$

Positions 1 to n are the real tokens. Padding on either side has no influence, even NaN; a sequence of padding alone
gives zeros. BERT classifies the first token, decoders the last one, and sentence embeddings are mostly means (Reimers &
Gurevych 2019). In `LearnedPooling` a learned query attends to the tokens.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Shaped

from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.latents import AttentionPooling
from jax_attention.layers import Factory
from jax_attention.models.token_masks import real_tokens
from jax_attention.norms import layer_norm, normalise
from jax_attention.ops import at_least_float32


@checked
class FirstToken(nnx.Module):
    """The vector of the first real token, such as `[CLS]` (Devlin et al. 2018)."""

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch embed"]:
        """Pool `x` over its real tokens, where `mask` of shape `(batch, length)` is True; None for all tokens."""
        check_sequence("x", x)
        real = real_tokens(mask, x)  # batch length
        return _sum(x, real & (real.cumsum(1) == 1))


@checked
class LastToken(nnx.Module):
    """The vector of the last real token, the only one in a causal model that depends on the whole sequence."""

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch embed"]:
        """Pool `x` over its real tokens, where `mask` of shape `(batch, length)` is True; None for all tokens."""
        check_sequence("x", x)
        real = real_tokens(mask, x)  # batch length
        return _sum(x, real & (real.cumsum(1) == real.sum(1)[:, None]))


@checked
class LastPosition(nnx.Module):
    """The vector of the last position, be it padding or not (Zhai et al. 2023, SigLIP)."""

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch embed"]:
        """Pool `x`, with at least one position; `mask` has no influence."""
        check_sequence("x", x)
        return x[:, -1]


@checked
class MeanPooling(nnx.Module):
    """The mean of the vectors of all real tokens (Reimers & Gurevych 2019).

    Args:
        skip: number of real tokens at the start that are left out, such as the class token of an image model.

    Raises:
        ValueError: `skip` is below 0.
    """

    def __init__(self, skip: int = 0):
        self.skip = skip

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch embed"]:
        """Pool `x` over its real tokens, where `mask` of shape `(batch, length)` is True; None for all tokens."""
        check_sequence("x", x)
        real = real_tokens(mask, x)  # batch length
        real = real & (real.cumsum(1) > self.skip)  # batch length
        count = real.sum(1)[:, None]  # batch 1
        return (_sum(at_least_float32(x), real) / jnp.where(count > 0, count, 1)).astype(x.dtype)


@checked
class FirstAndMeanPooling(nnx.Module):
    """The vector of the first position, then the mean of the patches' vectors (Oquab et al. 2023, DINOv2).

    Args:
        skip: number of real tokens in front of the patches: class token and registers.

    Raises:
        ValueError: `skip` is below 0.
    """

    vectors: ClassVar = 2

    def __init__(self, skip: int = 1):
        self.first = FirstToken()
        self.mean = MeanPooling(skip)

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch two_embed"]:
        """Pool `x` over its real tokens, where `mask` of shape `(batch, length)` is True; None for all tokens."""
        return jnp.concatenate([self.first(x, mask), self.mean(x, mask)], axis=-1)


@checked
class NormedPooling(nnx.Module):
    """A pooling whose vector is normalised by a layer norm (Bao et al. 2021, BEiT).

    Args:
        embed_dim: number of features per position.
        pooling: a pooling of one vector, such as `MeanPooling()`; None for the mean.
        norm_eps: constant added to the variance in the normalisation.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        pooling: nnx.Module | None = None,
        norm_eps: float = 1e-5,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.pooling: nnx.Module = MeanPooling() if pooling is None else pooling
        self.norm = layer_norm(embed_dim, eps=norm_eps, **factory)

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch embed"]:
        """Pool `x` over its real tokens, where `mask` of shape `(batch, length)` is True; None for all tokens."""
        return normalise(self.norm, self.pooling(x, mask))


@checked
class LearnedPooling(nnx.Module):
    """Attention pooling: a learned query attends to the real tokens (Lee et al. 2019; Zhai et al. 2022).

    Args:
        embed_dim: number of features per position.
        num_heads: number of attention heads; must divide `embed_dim`.
        ffn_dim: hidden features of the feed-forward network after the attention; None for no feed-forward network.
        activation: activation of the feed-forward network, as in `FeedForward`.
        norm_eps: constant added to the variance in the normalisation.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        ffn_dim: int | None = None,
        *,
        activation: str = "gelu_tanh",
        norm_eps: float = 1e-6,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.attention = AttentionPooling(
            embed_dim, num_heads, ffn_dim, activation=activation, norm_eps=norm_eps, **factory
        )

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "batch embed"]:
        """Pool `x` over its real tokens, where `mask` of shape `(batch, length)` is True; None for all tokens."""
        check_sequence("x", x, self.embed_dim)
        seen = None if mask is None else real_tokens(mask, x)[:, None, None]  # batch 1 1 length
        return self.attention(x, seen, need_weights=False).output[:, 0]


def pooled_dim(pooling: nnx.Module | None, embed_dim: int) -> int:
    """Features of a pooled vector: `embed_dim` for each vector that the pooling joins."""
    return embed_dim * getattr(pooling, "vectors", 1)


def _sum(
    x: Float[Array, "batch length embed"], chosen: Bool[Array, "batch length"]
) -> Float[Array, "batch embed"]:
    return jnp.where(chosen[..., None], x, 0.0).sum(1)
