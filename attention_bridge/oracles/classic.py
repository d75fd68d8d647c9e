"""Reference implementation of location-aware attention, pointer attention and hierarchical attention pooling."""

import numpy as np

from attention_bridge.oracles.attention_basics import additive_score
from attention_bridge.oracles.common import Array, Parameters, attend, dropout, linear, softmax, visible


def location_aware_attention(
    parameters: Parameters,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    previous: Array,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Location-aware attention (Chorowski et al. 2015, eqs. 8 and 9).

    f_i = F * α_{i−1}, e_ij = wᵀ tanh(W s_i + V h_j + U f_ij + b).
    α_0 is `previous` (batch, key), W is `q_proj`, V and b are `k_proj`, w is `score_proj`, U is `location_proj`, and F
    is `location_conv.weight` (filters, 1, width), whose column r applies to the key at offset r − width // 2 from j.
    Returns the output, the last weights (batch, key) and all weights (batch, query, key).
    """
    batch, query_len, key_len = *query.shape[:2], key.shape[1]
    filters = parameters["location_conv.weight"][:, 0]
    width = filters.shape[1]
    dtype = np.result_type(query, key, value, previous, *parameters.values())
    output = np.zeros((batch, query_len, value.shape[2]), dtype)
    weights = np.zeros((batch, query_len, key_len), dtype)
    for b in range(batch):
        alpha = previous[b]
        for i in range(query_len):
            around = np.concatenate([np.zeros(width // 2), alpha, np.zeros(width // 2)])
            location = np.stack([filters @ around[j : j + width] for j in range(key_len)])  # key filters
            hidden = np.tanh(
                linear(parameters, "q_proj", query[b, i])
                + linear(parameters, "k_proj", key[b])
                + linear(parameters, "location_proj", location)
            )
            alpha = softmax(linear(parameters, "score_proj", hidden)[:, 0], visible(mask, b, 0, i, key_len))
            weights[b, i] = alpha
            keep = None if dropout_keep is None else dropout_keep[b, i]
            output[b, i] = dropout(alpha, keep, dropout_rate) @ value[b]
    return output, weights[:, -1], weights


def pointer_attention(
    parameters: Parameters, query: Array, key: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """Pointer attention p(j) = softmax_j(wᵀ tanh(W₁ e_j + W₂ d_i)) (Vinyals et al. 2015, eq. 3).

    W₁ is `k_proj`, W₂ is `q_proj`, w is `score_proj`. Returns p as the output and as the weights.
    """
    _, weights = attend(additive_score, parameters, query, key, key, mask, None, 0.0)
    return weights, weights


def hierarchical_attention_pooling(
    parameters: Parameters, x: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """Hierarchical attention pooling (Yang et al. 2016, eqs. 5 to 7).

    u_t = tanh(W h_t + b), α_t = softmax_t(u_tᵀ u_w), s = Σ_t α_t h_t.
    W and b are `hidden_proj`, u_w is `score_proj`. Returns s (batch, 1, embed) and α (batch, 1, length).
    """
    batch, length, _ = x.shape
    pooled, weights = [], []
    for b in range(batch):
        u = np.tanh(linear(parameters, "hidden_proj", x[b]))
        alpha = softmax(u @ parameters["score_proj.weight"][0], visible(mask, b, 0, 0, length))
        pooled.append(sum(alpha[t] * x[b, t] for t in range(length)))
        weights.append(alpha)
    return np.stack(pooled)[:, None], np.stack(weights)[:, None]
