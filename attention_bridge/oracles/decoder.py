"""A decoder that stands alone: embeddings, pre-norm layers of causal self-attention and feed-forward, logits."""

import numpy as np

from attention_bridge.oracles.common import Array, Parameters, feed_forward, layer_norm, scope
from attention_bridge.oracles.self_attention import causal_self_attention


def decoder(
    parameters: Parameters,
    tokens: Array,
    mask: Array | None = None,
    positions: Array | None = None,
    *,
    num_heads: int,
    num_layers: int,
    activation: str = "gelu_tanh",
    norm_eps: float = 1e-5,
) -> tuple[Array, tuple[Array, ...]]:
    """GPT-2 (Radford et al. 2019, section 2.3).

    x = token + position; in each layer x = x + CausalMultiHead(norm(x)), then x = x + FFN(norm(x));
    logits = norm(x) E^T with E the table of token embeddings.

    Parameters: `{token,position}_embedding.weight`; for each layer N `layers.N.attention.{q,k,v,out}_proj`,
    `layers.N.attention_norm`, `layers.N.ffn.{up,down}_proj`, `layers.N.ffn_norm`; and `final_norm`. Tokens are
    (batch, length); they stand at 0, 1, 2, ... unless their positions are given.
    Returns the logits and each layer's weights.
    """
    x, weights = decoder_states(
        parameters,
        tokens,
        mask,
        positions,
        num_heads=num_heads,
        num_layers=num_layers,
        activation=activation,
        norm_eps=norm_eps,
    )
    return x @ parameters["token_embedding.weight"].T, weights


def decoder_states(
    parameters: Parameters,
    tokens: Array,
    mask: Array | None = None,
    positions: Array | None = None,
    *,
    num_heads: int,
    num_layers: int,
    activation: str = "gelu_tanh",
    norm_eps: float = 1e-5,
) -> tuple[Array, tuple[Array, ...]]:
    """The last hidden states norm(x) of `decoder`, and each layer's weights."""
    embeddings = parameters["token_embedding.weight"]
    positions = np.arange(tokens.shape[1]) if positions is None else positions
    x = embeddings[tokens] + parameters["position_embedding.weight"][positions]

    weights = []
    for n in range(num_layers):
        layer = scope(parameters, f"layers.{n}")
        normed = layer_norm(layer, "attention_norm", x, norm_eps)
        change, layer_weights = causal_self_attention(
            scope(layer, "attention"), normed, mask, num_heads=num_heads
        )
        x = x + change
        x = x + feed_forward(scope(layer, "ffn"), layer_norm(layer, "ffn_norm", x, norm_eps), activation)
        weights.append(layer_weights)

    return layer_norm(parameters, "final_norm", x, norm_eps), tuple(weights)
