"""Reference implementation of additive (Bahdanau), multiplicative (Luong) and scaled dot-product attention (Vaswani).

Each is a score of one query against its keys; `common.attend` computes weights and output from the scores.
"""

import math

import numpy as np

from attention_bridge.oracles.common import Array, Parameters, attend, linear


def additive_score(parameters: Parameters, query: Array, keys: Array) -> Array:
    """Additive score e_j = vᵀ tanh(W q + U k_j + b)."""
    hidden = np.tanh(linear(parameters, "q_proj", query) + linear(parameters, "k_proj", keys))
    return linear(parameters, "score_proj", hidden)[:, 0]


def dot_score(parameters: Parameters, query: Array, keys: Array) -> Array:
    """Dot-product score e_j = sᵀ h_j."""
    return keys @ query


def general_score(parameters: Parameters, query: Array, keys: Array) -> Array:
    """General score e_j = sᵀ W h_j."""
    return linear(parameters, "score.proj", keys) @ query


def concat_score(parameters: Parameters, query: Array, keys: Array) -> Array:
    """Concat score e_j = vᵀ tanh(W [s; h_j])."""
    pairs = np.stack([np.concatenate([query, key]) for key in keys])
    hidden = np.tanh(linear(parameters, "score.concat_proj", pairs))
    return linear(parameters, "score.score_proj", hidden)[:, 0]


def scaled_dot_score(parameters: Parameters, query: Array, keys: Array) -> Array:
    """Scaled dot-product score e_j = q · k_j / √d."""
    return keys @ query / math.sqrt(query.shape[0])


def basic_attention(
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with e_ij = vᵀ tanh(W q_i + U k_j + b) (Bahdanau, Cho, Bengio 2014, appendix A.1.2).

    W is `q_proj.weight` (hidden, query_dim), U is `k_proj.weight` (hidden, key_dim), b is `k_proj.bias` (hidden),
    absent in the paper and optional here, and v is `score_proj.weight` (1, hidden).
    """
    return attend(additive_score, parameters, query, key, value, mask, dropout_keep, dropout_rate)


def luong_dot_attention(
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with unscaled e_ij = s_iᵀ h_j (Luong, Pham, Manning 2015, section 3.1, "dot"), without parameters."""
    return attend(dot_score, parameters, query, key, value, mask, dropout_keep, dropout_rate)


def luong_general_attention(
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with e_ij = s_iᵀ W h_j (Luong, Pham, Manning 2015, section 3.1, "general").

    W is `score.proj.weight` (query_dim, key_dim).
    """
    return attend(general_score, parameters, query, key, value, mask, dropout_keep, dropout_rate)


def luong_concat_attention(
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with e_ij = vᵀ tanh(W [s_i; h_j]) (Luong, Pham, Manning 2015, section 3.1, "concat").

    W is `score.concat_proj.weight` (hidden, query_dim + key_dim), v is `score.score_proj.weight` (1, hidden).
    """
    return attend(concat_score, parameters, query, key, value, mask, dropout_keep, dropout_rate)


def scaled_dot_product_attention(
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with e_ij = q_i · k_j / √d (Vaswani et al. 2017, eq. 1), without parameters."""
    return attend(scaled_dot_score, parameters, query, key, value, mask, dropout_keep, dropout_rate)
