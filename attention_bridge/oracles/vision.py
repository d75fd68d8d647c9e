"""Reference implementation of attention over images (batch, height, width, channels)."""

import math
from collections.abc import Callable

import numpy as np

from attention_bridge.oracles.common import (
    Array,
    Parameters,
    dropout,
    feed_forward,
    layer_norm,
    linear,
    multi_head_attention,
    scope,
    softmax,
)


def vit_block(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    activation: str = "gelu",
    norm_eps: float = 1e-6,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """ViT block z' = MSA(LN(z)) + z, z'' = MLP(LN(z')) + z' (Dosovitskiy et al. 2020, equations 2 and 3).

    With LayerScale the outputs of MSA and MLP are multiplied by `attention_output_norm.factors` and
    `ffn_output_norm.factors`. With `ffn.gate_proj` the MLP is W_d (silu(W_g x) ⊙ W_u x).
    """
    normed = layer_norm(parameters, "attention_norm", x, norm_eps)
    attended, weights = multi_head_attention(
        scope(parameters, "attention"),
        normed,
        normed,
        mask,
        num_heads=num_heads,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    x = x + attended * parameters.get("attention_output_norm.factors", 1.0)
    ffn, normed = scope(parameters, "ffn"), layer_norm(parameters, "ffn_norm", x, norm_eps)
    if "gate_proj.weight" in ffn:
        gate, up = linear(ffn, "gate_proj", normed), linear(ffn, "up_proj", normed)
        change = linear(ffn, "down_proj", gate / (1.0 + np.exp(-gate)) * up)
    else:
        change = feed_forward(ffn, normed, activation)
    return x + change * parameters.get("ffn_output_norm.factors", 1.0), weights


def patches(parameters: Parameters, name: str, x: Array) -> Array:
    """Patch projection E p + b of each non-overlapping patch p; E is (out, in, height, width)."""
    kernel, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    _, _, rows, columns = kernel.shape
    batch, height, width, _ = x.shape
    out = np.zeros((batch, height // rows, width // columns, len(kernel)), np.result_type(x, kernel, bias))
    for y in range(height // rows):
        for c in range(width // columns):
            patch = x[:, y * rows : (y + 1) * rows, c * columns : (c + 1) * columns]
            out[:, y, c] = np.einsum("byxi,oiyx->bo", patch, kernel) + bias
    return out


def patch_embedding(parameters: Parameters, image: Array) -> Array:
    """Patch embedding z_0 = [c; E p_1; ...; E p_n] + P (Dosovitskiy et al. 2020, equation 1).

    Registers follow c; P has rows for them or not (Darcet et al. 2023), and for c or not. c and P may be absent.
    """
    embedded = patches(parameters, "patch_proj", image)
    batch, rows, columns, _ = embedded.shape
    tokens = [embedded[:, y, x] for y in range(rows) for x in range(columns)]
    first = [parameters["class_token"]] if "class_token" in parameters else []
    after = list(parameters.get("registers", ()))
    places = list(parameters.get("positions", np.zeros((len(first) + len(tokens), 1))))
    if len(places) == len(tokens):
        places[:0] = [np.zeros(1)] * len(first)
    if len(places) < len(first) + len(after) + len(tokens):
        places[len(first) : len(first)] = [np.zeros(1)] * len(after)
    prefix = [np.stack([each] * batch) for each in (*first, *after)]
    return np.stack([x + place for x, place in zip(prefix + tokens, places, strict=True)], axis=1)


def window_attention(
    parameters: Parameters,
    x: Array,
    *,
    num_heads: int,
    window_size: int,
    shift: int = 0,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Window attention (Liu et al. 2021, equations 2 to 4, figure 4).

    softmax(QKᵀ/√d + B) V in each window of M x M positions. The grid is zero-padded at the bottom and right. Shifted
    windows start `shift` positions further down and right and wrap around the edges; in a wrapped window, positions
    attend only to positions from the same side of the edge.
    """
    if shift:
        parameters = scope(parameters, "attention")
    root, table = math.sqrt(x.shape[-1] // num_heads), parameters["position_bias"]

    def scores(head: int, query: Array, keys: Array, offsets: list[tuple[int, int]]) -> Array:
        m = window_size
        rows = [(down + m - 1) * (2 * m - 1) + across + m - 1 for down, across in offsets]
        return keys @ query / root + table[rows, head]

    return _in_windows(parameters, x, num_heads, window_size, shift, scores, dropout_keep, dropout_rate)


def cosine_window_attention(
    parameters: Parameters,
    x: Array,
    *,
    num_heads: int,
    window_size: int,
    shift: int,
    pretrained_window: int,
    max_scale: float = 100.0,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Cosine window attention (Liu et al. 2022, equations 2 to 4), with offsets scaled to 8 as in the authors' code.

    softmax(τ cos(q, k) + 16 σ(MLP(δ))) V in each window; δ is the sign of the offset from key to query times
    log_8(1 + 8 |offset| / (w' - 1)), for rows and columns.
    """

    def spaced(offset: int) -> float:
        return math.copysign(math.log(1.0 + 8.0 * abs(offset) / (pretrained_window - 1), 8.0), offset)

    def bias(head: int, down: int, across: int) -> Array:
        hidden = linear(parameters, "position_hidden_proj", np.array([spaced(down), spaced(across)]))
        hidden = np.where(hidden.real > 0.0, hidden, 0.0)
        out = parameters["position_proj.weight"][head] @ hidden
        return np.asarray(16.0 / (1.0 + np.exp(-out)))

    def unit(x: Array) -> Array:
        return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True))

    def scores(head: int, query: Array, keys: Array, offsets: list[tuple[int, int]]) -> Array:
        exponent = parameters["logit_scale"][head]
        scale = np.exp(exponent) if exponent.real < math.log(max_scale) else max_scale
        return scale * (unit(keys) @ unit(query)) + np.array([bias(head, *offset) for offset in offsets])

    return _in_windows(parameters, x, num_heads, window_size, shift, scores, dropout_keep, dropout_rate)


def _in_windows(
    parameters: Parameters,
    x: Array,
    num_heads: int,
    window_size: int,
    shift: int,
    scores: Callable[[int, Array, Array, list[tuple[int, int]]], Array],
    dropout_keep: Array | None,
    dropout_rate: float,
) -> tuple[Array, Array]:
    """Attention in windows, with scores by head, query, keys and the offsets from the keys to the query."""
    batch, height, width, dim = x.shape
    m, d = window_size, dim // num_heads
    rows, columns = math.ceil(height / m), math.ceil(width / m)
    padded = np.zeros((batch, rows * m, columns * m, dim), x.dtype)
    padded[:, :height, :width] = x
    q, k, v = (linear(parameters, f"{name}_proj", padded) for name in "qkv")

    dtype = np.result_type(x, *parameters.values())
    mixed = np.zeros(padded.shape, dtype)
    weights = np.zeros((batch, rows * columns, num_heads, m * m, m * m), dtype)
    for window in range(rows * columns):
        top, left = divmod(window, columns)
        # Positions of the window on a grid that continues beyond its edges.
        places = [(top * m + i + shift, left * m + j + shift) for i in range(m) for j in range(m)]
        inside = [(y % (rows * m), c % (columns * m)) for y, c in places]
        ys, xs = [y for y, _ in inside], [c for _, c in inside]
        for i, (y, c) in enumerate(places):
            seen = np.array(
                [
                    (y < rows * m) == (other_y < rows * m) and (c < columns * m) == (other_c < columns * m)
                    for other_y, other_c in places
                ]
            )
            offsets = [(y - other_y, c - other_c) for other_y, other_c in places]
            for b in range(batch):
                for h in range(num_heads):
                    own = slice(h * d, (h + 1) * d)
                    row = softmax(scores(h, q[b, ys[i], xs[i], own], k[b, ys, xs, own], offsets), seen)
                    weights[b, window, h, i] = row
                    keep = None if dropout_keep is None else dropout_keep[b, window, h, i]
                    mixed[b, ys[i], xs[i], own] = dropout(row, keep, dropout_rate) @ v[b, ys, xs, own]
    return linear(parameters, "out_proj", mixed)[:, :height, :width], weights


def _rows_after_one_another(x: Array) -> Array:
    return np.concatenate([x[:, y] for y in range(x.shape[1])], axis=1)


def _cut_into_rows(x: Array, height: int) -> Array:
    return np.stack(np.split(x, height, axis=1), axis=1)


def spatial_reduction_attention(
    parameters: Parameters,
    x: Array,
    *,
    num_heads: int,
    norm_eps: float = 1e-5,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Spatial-reduction attention (Wang et al. 2021, equations 1 to 3).

    head_j = Attention(QW_j, SR(K)W_j, SR(V)W_j), SR(x) = Norm(Reshape(x, R) W^S).
    W^S on reshaped patches is a convolution with stride R.
    """
    reduced = layer_norm(parameters, "reduction_norm", patches(parameters, "reduction_proj", x), norm_eps)
    output, weights = multi_head_attention(
        parameters,
        _rows_after_one_another(x),
        _rows_after_one_another(reduced),
        num_heads=num_heads,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return _cut_into_rows(output, x.shape[1]), weights


def axial_attention(parameters: Parameters, x: Array, *, num_heads: int) -> tuple[Array, Array, Array]:
    """Attention within each column plus attention within each row (Ho et al. 2019)."""
    down, across = scope(parameters, "height_attention"), scope(parameters, "width_attention")
    columns = [multi_head_attention(down, c, c, num_heads=num_heads) for c in x.swapaxes(0, 2).swapaxes(1, 2)]
    rows = [multi_head_attention(across, r, r, num_heads=num_heads) for r in x.swapaxes(0, 1)]
    output = np.stack([out for out, _ in columns], axis=2) + np.stack([out for out, _ in rows], axis=1)
    return output, np.stack([w for _, w in columns], axis=1), np.stack([w for _, w in rows], axis=1)


def decomposed_position_attention(
    parameters: Parameters,
    x: Array,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention with decomposed relative positions (Li et al. 2022, section 4.1).

    E_ij = q_i · R_{p(i),p(j)}, R = R^h_{h(i),h(j)} + R^w_{w(i),w(j)}.
    E is added to the scaled scores, as in the authors' code; equation 4 of the paper also scales E.
    """
    batch, height, width, dim = x.shape
    d, area = dim // num_heads, height * width
    places = [(y, c) for y in range(height) for c in range(width)]
    q, k, v = (_rows_after_one_another(linear(parameters, f"{name}_proj", x)) for name in "qkv")
    down, across = parameters["height_positions"], parameters["width_positions"]
    dtype = np.result_type(x, *parameters.values())
    mixed = np.zeros((batch, area, dim), dtype)
    weights = np.zeros((batch, num_heads, area, area), dtype)
    for i, (y, c) in enumerate(places):
        between = np.stack([down[y - yj + height - 1] + across[c - cj + width - 1] for yj, cj in places])
        for b in range(batch):
            for h in range(num_heads):
                own = slice(h * d, (h + 1) * d)
                scores = k[b, :, own] @ q[b, i, own] / math.sqrt(d) + between @ q[b, i, own]
                weights[b, h, i] = softmax(scores, np.ones(area, dtype=bool))
                keep = None if dropout_keep is None else dropout_keep[b, h, i]
                mixed[b, i, own] = dropout(weights[b, h, i], keep, dropout_rate) @ v[b, :, own]
    return _cut_into_rows(linear(parameters, "out_proj", mixed), height), weights
