r"""Reward head: one number per text, such as the preference for an answer (Ouyang et al. 2022).

$$ r = w^\top \bar{x} $$
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.models.tasks.pooling import LastToken
from jax_attention.models.tasks.results import RewardOutput


@checked
class RewardHead(nnx.Module):
    """Reward of each sequence, from its pooled hidden state, by default the last real token (Ouyang et al. 2022).

    Args:
        embed_dim: number of features per position.
        pooling: `FirstToken()`, `LastToken()`, `MeanPooling()` or a `LearnedPooling`; None for the last token.
        bias: whether the linear layer has a bias.
    """

    returns: ClassVar = RewardOutput

    def __init__(
        self,
        embed_dim: int,
        *,
        pooling: nnx.Module | None = None,
        bias: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.pooling: nnx.Module = LastToken() if pooling is None else pooling
        self.reward_proj = linear(embed_dim, 1, bias=bias, **factory)

    def __call__(
        self, x: Float[Array, "batch length embed"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, " batch"]:
        """Compute rewards from the last hidden states `x`; `mask` `(batch, length)` is True at real tokens."""
        check_sequence("x", x, self.embed_dim)
        return self.reward_proj(self.pooling(x, mask))[:, 0]
