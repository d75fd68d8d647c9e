"""A model without a head: its results are the last hidden states."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.outputs import HiddenOutput


def _result(
    last_hidden_state: Float[Array, "batch length embed"],
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None,
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None,
) -> HiddenOutput:
    """Result of a model without a head, from its hidden states and attention weights."""
    return HiddenOutput(last_hidden_state, None, attentions, hidden_states)


@checked
class NoHead(nnx.Module):
    """No head, for the body of a model whose checkpoint has none (Devlin et al. 2018).

    Args:
        embed_dim: number of features per position.
    """

    returns: ClassVar = staticmethod(_result)

    def __init__(
        self,
        embed_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        self.embed_dim = embed_dim

    def __call__(self, x: Float[Array, "batch length embed"]) -> tuple[()]:
        """Check the last hidden states `x`, which need no head."""
        check_sequence("x", x, self.embed_dim)
        return ()
