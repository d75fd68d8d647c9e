"""Reference implementation of relative positions: T5, Shaw, Transformer-XL and DeBERTa."""

import math

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dot_product_attention,
    dropout,
    linear,
    merge_heads,
    softmax,
    split_heads,
    visible,
)


def t5_bucket(distance: int, num_buckets: int, max_distance: int) -> int:
    """Bucket of a distance: half of the buckets per direction, of which half are exact (Raffel et al. 2020, 2.1)."""
    side = num_buckets // 2
    exact = side // 2
    apart = abs(distance)
    if apart >= exact:
        far = math.log(apart / exact) / math.log(max_distance / exact) * (side - exact)
        apart = min(exact + math.floor(far + 1e-9), side - 1)  # far may be rounded below a whole number
    return apart + side * (distance > 0)


def t5_bias(
    parameters: Parameters,
    query: Array,
    key: Array,
    positions: Array,
    *,
    num_buckets: int,
    max_distance: int,
) -> Array:
    """Bias b_{h, bucket(j - i)} (Raffel et al. 2020, section 2.1)."""
    table = parameters["bias_embedding.weight"]
    batch, num_heads, length, _ = query.shape
    bias = np.zeros((batch, num_heads, length, length), table.dtype)
    for b, h, i, j in np.ndindex(bias.shape):
        bias[b, h, i, j] = table[
            t5_bucket(int(positions[b, j] - positions[b, i]), num_buckets, max_distance), h
        ]
    return bias


def clipped(positions: Array, b: int, i: int, j: int, max_distance: int) -> int:
    """Row of clip(j - i, k) in the embedding, where row 0 is -k (Shaw et al. 2018, eq. 4)."""
    return int(min(max(positions[b, j] - positions[b, i], -max_distance), max_distance)) + max_distance


def shaw_bias(
    parameters: Parameters, query: Array, key: Array, positions: Array, *, max_distance: int
) -> Array:
    """Bias q_i · a^K_ij / √d (Shaw et al. 2018, eq. 5)."""
    table = parameters["key_embedding.weight"]
    batch, num_heads, length, head_dim = query.shape
    bias = np.zeros((batch, num_heads, length, length), np.result_type(table, query))
    for b, h, i, j in np.ndindex(bias.shape):
        bias[b, h, i, j] = query[b, h, i] @ table[clipped(positions, b, i, j, max_distance)]
    return bias / math.sqrt(head_dim)


def shaw_self_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    positions: Array,
    num_heads: int,
    max_distance: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Self-attention with relative positions (Shaw et al. 2018, eq. 3-4).

    z_i = Σ_j α_ij (x_j W^V + a^V_ij), e_ij = x_i W^Q (x_j W^K + a^K_ij)ᵀ / √d.
    """
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    of_keys, of_values = parameters["position.key_embedding.weight"], parameters["value_embedding.weight"]
    batch, _, length, head_dim = query.shape
    dtype = np.result_type(x, *parameters.values())
    output = np.zeros(query.shape, dtype)
    weights = np.zeros((batch, num_heads, length, length), dtype)
    for b, h, i in np.ndindex(weights.shape[:3]):
        rows = [clipped(positions, b, i, j, max_distance) for j in range(length)]
        scores = (key[b, h] + of_keys[rows]) @ query[b, h, i] / math.sqrt(head_dim)
        weights[b, h, i] = softmax(scores, visible(mask, b, h, i, length))
        keep = None if dropout_keep is None else dropout_keep[b, h, i]
        output[b, h, i] = dropout(weights[b, h, i], keep, dropout_rate) @ (value[b, h] + of_values[rows])
    return linear(parameters, "out_proj", merge_heads(output)), weights


def transformer_xl_shift(parameters: Parameters, query: Array) -> Array:
    """Queries q + u for the content terms (Dai et al. 2019, section 3.3, terms a and c)."""
    return query + parameters["content_bias"][:, None]


def transformer_xl_bias(parameters: Parameters, query: Array, key: Array, positions: Array) -> Array:
    """Bias (q_i + v)ᵀ W_R r_{i-j} / √d, r_x = [sin(x θ), cos(x θ)] (Dai et al. 2019, section 3.3, terms b and d)."""
    weight = parameters["distance_weight"]
    embed_dim = weight.shape[0]
    thetas = 10000.0 ** (-np.arange(0, embed_dim, 2) / embed_dim)
    towards = query + parameters["distance_bias"][:, None]
    batch, num_heads, length, head_dim = query.shape
    bias = np.zeros((batch, num_heads, length, length), np.result_type(weight, towards))
    for b, i, j in np.ndindex(batch, length, length):
        angles = (positions[b, i] - positions[b, j]) * thetas
        encoded = np.concatenate([np.sin(angles), np.cos(angles)])
        for h in range(num_heads):
            bias[b, h, i, j] = towards[b, h, i] @ (encoded @ weight[:, h])
    return bias / math.sqrt(head_dim)


def deberta_row(distance: int, num_buckets: int, max_distance: int) -> int:
    """Row δ of a distance: exact up to half of the buckets, then logarithmic (code of DeBERTa-v2)."""
    middle = num_buckets // 2
    apart = abs(distance)
    if apart > middle:
        far = math.log(apart / middle) / math.log((max_distance - 1) / middle) * (middle - 1)
        apart = middle + math.ceil(far - 1e-9)  # far may be rounded above a whole number
    return min(max(apart * (-1 if distance < 0 else 1) + num_buckets, 0), 2 * num_buckets - 1)


def disentangled_self_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    positions: Array,
    num_heads: int,
    num_buckets: int,
    max_distance: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Disentangled self-attention (He et al. 2021, eq. 4).

    Scores are (Q^c K^cᵀ + Q^c K^rᵀ_δ(i,j) + K^c Q^rᵀ) / √(3d). The third term uses δ(i, j) as the authors' code does.
    """
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    table = parameters["relative_embedding.weight"][None]
    own = "relative_" if "relative_q_proj.weight" in parameters else ""
    by_query = split_heads(linear(parameters, f"{own}q_proj", table), num_heads)[0]  # heads rows head_dim
    by_key = split_heads(linear(parameters, f"{own}k_proj", table), num_heads)[0]  # heads rows head_dim
    batch, _, length, head_dim = query.shape
    scale = 1 / math.sqrt(3 * head_dim)
    bias = np.zeros((batch, num_heads, length, length), np.result_type(query, key, by_query, by_key))
    for b, i, j in np.ndindex(batch, length, length):
        row = deberta_row(int(positions[b, i] - positions[b, j]), num_buckets, max_distance)
        for h in range(num_heads):
            content_to_position = query[b, h, i] @ by_key[h, row]
            position_to_content = key[b, h, j] @ by_query[h, row]
            bias[b, h, i, j] = scale * (content_to_position + position_to_content)
    heads, weights = dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        scale=scale,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights
