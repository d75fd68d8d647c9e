"""Reference implementation of a language model with any token mixers: embeddings, pre-norm layers and logits."""

from collections.abc import Callable, Sequence

import numpy as np

from attention_bridge.oracles.common import Array, Parameters, linear, rms_norm, scope
from attention_bridge.oracles.delta import sigmoid, silu

Mixer = Callable[..., tuple[Array, ...]]
FeedForward = Callable[[Parameters, Array], Array] | None


def gated_feed_forward(
    parameters: Parameters, x: Array, *, gate_scale: float = 1.0, output_scale: float = 1.0
) -> Array:
    """Gated feed-forward network b W_d (silu(a W_g x) ⊙ W_u x) (Shazeer 2020, eq. 6), with a = b = 1."""
    hidden = silu(gate_scale * linear(parameters, "gate_proj", x)) * linear(parameters, "up_proj", x)
    return output_scale * linear(parameters, "down_proj", hidden)


def parallel_mixers(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    attention: Mixer,
    recurrent: Mixer,
    attention_scales: Sequence[float],
    recurrent_scales: Sequence[float],
) -> tuple[Array, Array]:
    """Attention and a recurrent layer in parallel, a₁ f(a₀ x) + r₁ g(r₀ x) (Falcon-H1, TII 2025).

    Returns the output and the weights of the attention.
    """
    attended, *_, weights = attention(scope(parameters, "attention_mixer"), attention_scales[0] * x, mask)
    read, *_ = recurrent(scope(parameters, "recurrent_mixer"), recurrent_scales[0] * x, mask)
    return attention_scales[1] * attended + recurrent_scales[1] * read, weights


def softmax_experts(parameters: Parameters, x: Array, *, num_experts: int, num_chosen: int) -> Array:
    """Mixture of experts with softmax routing (Qwen MoE, 2024).

    Σ_e p_e f_e(x) / Σ_e p_e over the largest p_e, p = softmax(W x), plus σ(w·x) f_shared(x).
    """
    output = np.zeros(x.shape, np.result_type(x, *parameters.values()))
    for place in np.ndindex(x.shape[:-1]):
        token = x[place]
        scores = parameters["router.weight"] @ token
        scores = np.exp(scores - scores.real.max())
        chosen = np.argsort(-scores.real)[:num_chosen]
        for expert in chosen:
            share = scores[expert] / scores[chosen].sum()
            output[place] += share * gated_feed_forward(scope(parameters, f"experts.{expert}"), token)
        gate = sigmoid(parameters["shared_gate.weight"] @ token)
        output[place] += gate * gated_feed_forward(scope(parameters, "shared"), token)
    return output


def language_model(
    parameters: Parameters,
    tokens: Array,
    mask: Array | None = None,
    *,
    mixers: Sequence[Mixer],
    ffns: Sequence[FeedForward],
    eps: float = 1e-6,
) -> tuple[Array, tuple[Array, ...]]:
    """Logits W norm(x) of a language model with any token mixers.

    x starts as the token embedding; in each layer x = x + mix(norm(x)), then x = x + FFN(norm(x)) if there is an FFN.
    Each mixer returns its output first and its weights last.

    Parameters: `token_embedding.weight`; for each layer N `layers.N.attention`, `layers.N.attention_norm`,
    `layers.N.ffn`, `layers.N.ffn_norm`; `final_norm` and `head.weight`.
    Returns the logits and the weights of each layer.
    """
    x, weights = hidden_states(parameters, tokens, mask, mixers=mixers, ffns=ffns, eps=eps)
    return linear(parameters, "head", x), weights


def hidden_states(
    parameters: Parameters,
    tokens: Array,
    mask: Array | None = None,
    *,
    mixers: Sequence[Mixer],
    ffns: Sequence[FeedForward],
    eps: float = 1e-6,
) -> tuple[Array, tuple[Array, ...]]:
    """Last hidden states norm(x) of `language_model`, and the weights of each layer."""
    x = parameters["token_embedding.weight"][tokens]
    if "type_embedding.weight" in parameters:  # all tokens have type 0
        x = x + parameters["type_embedding.weight"][0]
    weights = []
    for n, (mixer, ffn) in enumerate(zip(mixers, ffns, strict=True)):
        layer = scope(parameters, f"layers.{n}")
        change, *_, layer_weights = mixer(
            scope(layer, "attention"), rms_norm(layer, "attention_norm", x, eps), mask
        )
        x = x + change
        if ffn is not None:
            x = x + ffn(scope(layer, "ffn"), rms_norm(layer, "ffn_norm", x, eps))
        weights.append(layer_weights)
    return rms_norm(parameters, "final_norm", x, eps), tuple(weights)
