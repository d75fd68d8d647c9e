"""Reference implementation of the encoder: embeddings, post-norm layers and a pooler."""

import numpy as np

from attention_bridge.oracles.common import Array, Parameters, feed_forward, layer_norm, linear, scope
from attention_bridge.oracles.self_attention import multi_head_self_attention


def encoder(
    parameters: Parameters,
    tokens: Array,
    mask: Array | None = None,
    token_types: Array | None = None,
    *,
    num_heads: int,
    num_layers: int,
    activation: str = "gelu",
    norm_eps: float = 1e-12,
) -> tuple[Array, Array | None, tuple[Array, ...]]:
    """Output, pooled output and weights of BERT (Devlin et al. 2018).

    x = norm(token + position + type); in each layer x = norm(x + MultiHead(x, x, x)), then
    x = norm(x + FFN(x)); pooled = tanh(W x_0 + b).

    Parameters: `{token,position,type}_embedding.weight`, `embedding_norm`; for each layer N
    `layers.N.attention.{q,k,v,out}_proj`, `layers.N.attention_norm`, `layers.N.ffn.{up,down}_proj`,
    `layers.N.ffn_norm`; and `pooler`, which may be absent. Tokens are (batch, length); token types are 0 unless given.
    Returns the output, the pooled first position (None without a pooler) and the weights of each layer.
    """
    length = tokens.shape[1]
    if token_types is None:
        token_types = np.zeros_like(tokens)
    x = (
        parameters["token_embedding.weight"][tokens]
        + parameters["position_embedding.weight"][:length]
        + parameters["type_embedding.weight"][token_types]
    )
    x = layer_norm(parameters, "embedding_norm", x, norm_eps)

    weights = []
    for n in range(num_layers):
        layer = scope(parameters, f"layers.{n}")
        change, layer_weights = multi_head_self_attention(
            scope(layer, "attention"), x, mask, num_heads=num_heads
        )
        x = layer_norm(layer, "attention_norm", x + change, norm_eps)
        x = layer_norm(layer, "ffn_norm", x + feed_forward(scope(layer, "ffn"), x, activation), norm_eps)
        weights.append(layer_weights)

    pooled = np.tanh(linear(parameters, "pooler", x[:, 0])) if "pooler.weight" in parameters else None
    return x, pooled, tuple(weights)
