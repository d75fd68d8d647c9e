"""Reference implementation of low-rank attention, with fewer keys than positions."""

import math

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dot_product_attention,
    linear,
    merge_heads,
    softmax,
    split_heads,
    visible,
)


def linformer_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Linformer attention (Wang et al. 2020, equation 7).

    head_i = softmax(Q W_i^Q (E K W_i^K)ᵀ / √d) F V W_i^V.
    E and F are the transposes of the first `length` rows of `key_mixtures` and `value_mixtures`. Masked positions are
    omitted from both sums.
    """
    batch, length, _ = x.shape
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    dtype = np.result_type(x, *parameters.values())
    size = parameters["key_mixtures"].shape[1]
    mixed_key, mixed_value = (np.zeros((batch, num_heads, size, key.shape[-1]), dtype) for _ in range(2))
    some = np.zeros((batch, 1, 1, size), dtype=bool)
    for b in range(batch):
        shown = visible(mask, b, 0, 0, length)
        some[b] = shown.any()
        for j in np.flatnonzero(shown):
            for m in range(size):
                mixed_key[b, :, m] += parameters["key_mixtures"][j, m] * key[b, :, j]
                mixed_value[b, :, m] += parameters["value_mixtures"][j, m] * value[b, :, j]
    heads, weights = dot_product_attention(
        query, mixed_key, mixed_value, mask=some, dropout_keep=dropout_keep, dropout_rate=dropout_rate
    )
    return linear(parameters, "out_proj", merge_heads(heads)), weights


def pseudo_inverse(matrix: Array, num_iterations: int) -> Array:
    """Iterative pseudo-inverse of a positive matrix (Xiong et al. 2021, eq. 11).

    Z_{j+1} = Z_j (13 I − A Z_j (15 I − A Z_j (7 I − A Z_j))) / 4, Z_0 = Aᵀ / (‖A‖₁ ‖A‖_∞).
    The entries of A are positive, so both norms are the largest sums.
    """
    columns, rows = matrix.sum(axis=0), matrix.sum(axis=1)
    norm = columns[np.argmax(columns.real)] * rows[np.argmax(rows.real)]
    if norm.real == 0:
        return np.zeros_like(matrix.T)
    inverse, identity = matrix.T / norm, np.eye(len(matrix))
    for _ in range(num_iterations):
        product = matrix @ inverse
        inverse = (
            inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
        )
    return inverse


def nystrom_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    num_landmarks: int,
    num_iterations: int = 6,
) -> tuple[Array, Array]:
    """Nyström attention (Xiong et al. 2021, eq. 13 to 15).

    Ŝ = softmax(Q K̃ᵀ/√d) Z* softmax(Q̃ K̃ᵀ/√d)⁺ softmax(Q̃ Kᵀ/√d), X̂ = Ŝ V + DConv(V).
    Means omit masked positions, and a landmark of masked positions alone is masked. DConv (`value_conv`, optional) is a
    convolution along the length with zero padding and one kernel per head.
    """
    batch, length, _ = x.shape
    query, key, value = (split_heads(linear(parameters, f"{name}_proj", x), num_heads) for name in "qkv")
    head_dim = query.shape[-1]
    segment = length // num_landmarks
    dtype = np.result_type(x, *parameters.values())
    heads = np.zeros(query.shape, dtype)
    weights = np.zeros((batch, num_heads, length, length), dtype)
    for b in range(batch):
        shown = visible(mask, b, 0, 0, length)
        members = [
            [i for i in range(m * segment, (m + 1) * segment) if shown[i]] for m in range(num_landmarks)
        ]
        known = np.array([bool(those) for those in members])
        for h in range(num_heads):
            landmarks = [
                np.stack([x[those].mean(axis=0) if those else np.zeros(head_dim) for those in members])
                for x in (query[b, h], key[b, h])
            ]
            asking, asked = landmarks
            scale = 1 / math.sqrt(head_dim)
            to_landmarks = np.stack([softmax(scale * (asked @ q), known) for q in query[b, h]])
            from_landmarks = np.stack([softmax(scale * (key[b, h] @ q), shown) for q in asking])
            between = np.stack(
                [
                    softmax(scale * (asked @ q), known if seen else ~known & known)
                    for q, seen in zip(asking, known, strict=True)
                ]
            )
            weights[b, h] = to_landmarks @ pseudo_inverse(between, num_iterations) @ from_landmarks
            heads[b, h] = weights[b, h] @ value[b, h]
            if "value_conv.weight" in parameters:
                kernel = parameters["value_conv.weight"][h, 0]
                for i in range(length):
                    for offset, weight in enumerate(kernel):
                        j = i + offset - len(kernel) // 2
                        if 0 <= j < length and shown[j]:
                            heads[b, h, i] += weight * value[b, h, j]
    return linear(parameters, "out_proj", merge_heads(heads)), weights
