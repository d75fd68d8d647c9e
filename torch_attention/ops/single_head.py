"""Single-head attention without a head axis."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import align, check_boolean
from torch_attention.ops.definition import weighted_values
from torch_attention.ops.softmax import masked_softmax
from torch_attention.outputs import AttentionOutput


@checked
def additive_features(
    query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
) -> Float[Tensor, "batch query key hidden"]:
    """tanh(q_i + k_j) for every pair: the hidden layer of Bahdanau's alignment model."""
    return torch.tanh(query[:, :, None] + key[:, None])


@checked
def score_attention(
    scores: Float[Tensor, "batch query key"],
    value: Float[Tensor, "batch key value_dim"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    need_weights: bool = True,
    dropout_keep: Bool[Tensor, "batch query key"] | None = None,
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
