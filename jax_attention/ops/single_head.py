"""Single-head attention without a head axis."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import align, check_boolean
from jax_attention.ops.definition import weighted_values
from jax_attention.ops.softmax import masked_softmax
from jax_attention.outputs import AttentionOutput


@checked
def additive_features(
    query: Float[Array, "batch query hidden"], key: Float[Array, "batch key hidden"]
) -> Float[Array, "batch query key hidden"]:
    """tanh(q_i + k_j) for every pair: the hidden layer of Bahdanau's alignment model."""
    return jnp.tanh(query[:, :, None] + key[:, None])


@checked
def score_attention(
    scores: Float[Array, "batch query key"],
    value: Float[Array, "batch key value_dim"],
    mask: Bool[Array, "..."] | None = None,
    *,
    need_weights: bool = True,
    dropout_keep: Bool[Array, "batch query key"] | None = None,
    dropout_rate: float = 0.0,
) -> AttentionOutput:
    """Attention from given scores: softmax over the keys, then the weighted mean of the values."""
    scores = scores[:, None]  # batch 1 query key
    if mask is not None:
        check_boolean("mask", mask)
        mask = align("mask", mask, scores.shape)
    keep = None if dropout_keep is None else dropout_keep[:, None]
    weights = masked_softmax(scores, mask)
    output = weighted_values(weights, value[:, None], dropout_keep=keep, dropout_rate=dropout_rate)
    return AttentionOutput(output[:, 0], weights[:, 0] if need_weights else None)
