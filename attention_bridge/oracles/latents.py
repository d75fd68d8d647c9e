"""Reference implementation of attention with learned queries, and of attention over sets."""

import math
from typing import Any

import numpy as np

from attention_bridge.oracles.common import (
    ACTIVATIONS,
    Array,
    Parameters,
    dot_product_attention,
    feed_forward,
    layer_norm,
    linear,
    merge_heads,
    multi_head_attention,
    scope,
    softmax,
    split_heads,
    visible,
)


def _each(vectors: Array, batch: int) -> Array:
    return np.stack([vectors] * batch)


def perceiver_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    residual: bool = True,
    norm_eps: float = 1e-5,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Attention of latents to an input, with layer norms before and a residual after (Jaegle et al. 2021, 3.1)."""
    latents = _each(parameters["latents"], len(x))
    output, weights = multi_head_attention(
        parameters,
        layer_norm(parameters, "latent_norm", latents, norm_eps),
        layer_norm(parameters, "input_norm", x, norm_eps),
        mask,
        num_heads=num_heads,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    return latents + output if residual else output, weights


def attention_pooling(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    activation: str = "gelu_tanh",
    norm_eps: float = 1e-6,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Pooling y = h + MLP(LN(h)), h = MHA(p, x, x) with learned probes p (Zhai et al. 2022, section 2.2)."""
    hidden, weights = multi_head_attention(
        scope(parameters, "attention"),
        _each(parameters["probes"], len(x)),
        x,
        mask,
        num_heads=num_heads,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    normed = layer_norm(parameters, "ffn_norm", hidden, norm_eps)
    return hidden + feed_forward(scope(parameters, "ffn"), normed, activation), weights


def multihead_attention_block(
    parameters: Parameters,
    query: Array,
    memory: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    activation: str = "relu",
    norm_eps: float = 1e-5,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Multi-head attention block (Lee et al. 2019, eqs. 4 to 7).

    MAB(X, Y) = LN(H + rFF(H)), H = LN(X + Multihead(X, Y, Y; softmax(·/√d))).
    """
    heads, weights = dot_product_attention(
        split_heads(linear(parameters, "q_proj", query), num_heads),
        split_heads(linear(parameters, "k_proj", memory), num_heads),
        split_heads(linear(parameters, "v_proj", memory), num_heads),
        mask=mask,
        scale=1 / math.sqrt(query.shape[-1]),
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
    attended = query + linear(parameters, "out_proj", merge_heads(heads))
    hidden = layer_norm(parameters, "attention_norm", attended, norm_eps)
    transformed = hidden + ACTIVATIONS[activation](linear(parameters, "ffn_proj", hidden))
    return layer_norm(parameters, "ffn_norm", transformed, norm_eps), weights


def set_attention_block(
    parameters: Parameters, x: Array, mask: Array | None = None, **options: Any
) -> tuple[Array, Array]:
    """Set attention block SAB(X) = MAB(X, X) (Lee et al. 2019, eq. 8)."""
    return multihead_attention_block(scope(parameters, "block"), x, x, mask, **options)


def induced_set_attention_block(
    parameters: Parameters, x: Array, mask: Array | None = None, **options: Any
) -> tuple[Array, Array, Array]:
    """Induced set attention block ISAB(X) = MAB(X, H), H = MAB(I, X) (Lee et al. 2019, eqs. 9 and 10)."""
    points = _each(parameters["inducing_points"], len(x))
    summary, inducing_weights = multihead_attention_block(
        scope(parameters, "inducing_block"), points, x, mask, **options
    )
    output, weights = multihead_attention_block(scope(parameters, "block"), x, summary, **options)
    return output, weights, inducing_weights


def pooling_by_attention(
    parameters: Parameters, x: Array, mask: Array | None = None, *, activation: str = "relu", **options: Any
) -> tuple[Array, Array]:
    """Pooling by multi-head attention PMA(Z) = MAB(S, rFF(Z)) (Lee et al. 2019, eq. 11)."""
    seeds = _each(parameters["seeds"], len(x))
    elements = ACTIVATIONS[activation](linear(parameters, "ffn_proj", x))
    block = scope(parameters, "block")
    return multihead_attention_block(block, seeds, elements, mask, activation=activation, **options)


def sigmoid(x: Array) -> Array:
    """Sigmoid 1 / (1 + exp(−x))."""
    return 1 / (1 + np.exp(-x))


def gru(parameters: Parameters, x: Array, state: Array) -> Array:
    """GRU h' = (1 − z) n + z h (Cho et al. 2014, in the variant with the reset gate r on W_hn h + b_hn)."""
    dim = state.shape[-1]
    weights_x, weights_h = parameters["weight_ih"], parameters["weight_hh"]
    biases_x, biases_h = parameters["bias_ih"], parameters["bias_hh"]
    reset, update, new = (slice(gate * dim, (gate + 1) * dim) for gate in range(3))

    def of_x(gate: slice) -> Array:
        return weights_x[gate] @ x + biases_x[gate]

    def of_state(gate: slice) -> Array:
        return weights_h[gate] @ state + biases_h[gate]

    r = sigmoid(of_x(reset) + of_state(reset))
    z = sigmoid(of_x(update) + of_state(update))
    n = np.tanh(of_x(new) + r * of_state(new))
    return (1 - z) * n + z * state


def slot_attention(
    parameters: Parameters,
    x: Array,
    noise: Array,
    mask: Array | None = None,
    *,
    num_iterations: int,
    activation: str = "relu",
    eps: float = 1e-8,
    norm_eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """Slot attention: slots compete for the elements of x (Locatello et al. 2020, algorithm 1)."""
    batch, num_slots, dim = noise.shape
    length = x.shape[1]
    inputs = layer_norm(parameters, "input_norm", x, norm_eps)
    keys, values = linear(parameters, "k_proj", inputs), linear(parameters, "v_proj", inputs)
    slots = parameters["mean"] + np.exp(parameters["log_sigma"]) * noise
    dtype = np.result_type(x, noise, *parameters.values())
    weights = np.zeros((batch, num_slots, length), dtype)
    assignments = np.zeros((batch, num_slots, length), dtype)
    for _ in range(num_iterations):
        before = slots
        queries = linear(parameters, "q_proj", layer_norm(parameters, "slot_norm", slots, norm_eps))
        slots = np.zeros((batch, num_slots, dim), dtype)
        for b in range(batch):
            seen = visible(mask, b, 0, 0, length)
            for j in np.flatnonzero(seen):
                scores = queries[b] @ keys[b, j] / math.sqrt(dim)
                assignments[b, :, j] = softmax(scores, np.ones(num_slots, dtype=bool))
            for i in range(num_slots):
                shares = np.where(seen, assignments[b, i] + eps, 0.0)
                weights[b, i] = shares / shares.sum() if seen.any() else 0.0
                slots[b, i] = gru(scope(parameters, "gru"), weights[b, i] @ values[b], before[b, i])
        normed = layer_norm(parameters, "ffn_norm", slots, norm_eps)
        slots = slots + feed_forward(scope(parameters, "ffn"), normed, activation)
    return slots, weights, assignments
