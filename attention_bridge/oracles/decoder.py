"""Reference implementation of the decoder-only Transformer: embeddings, pre-norm layers and logits."""

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
    """Logits and weights of GPT-2 (Radford et al. 2019, section 2.3).

    x = token + position; in each layer x = x + CausalMultiHead(norm(x)), then x = x + FFN(norm(x));
    logits = norm(x) E^T with the token embedding matrix E.

    Parameters: `{token,position}_embedding.weight`; for each layer N `layers.N.attention.{q,k,v,out}_proj`,
    `layers.N.attention_norm`, `layers.N.ffn.{up,down}_proj`, `layers.N.ffn_norm`; and `final_norm`. Tokens are
    (batch, length); positions are 0, 1, 2, ... unless given. Returns the logits and the weights of each layer.
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
    """Last hidden states norm(x) of `decoder`, and the weights of each layer."""
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
