"""Reference implementation of cross-attention and of the decoder block with causal self-attention."""

from attention_bridge.oracles.attention_basics import scaled_dot_product_attention
from attention_bridge.oracles.common import (
    Array,
    Parameters,
    feed_forward,
    layer_norm,
    linear,
    multi_head_attention,
    scope,
)
from attention_bridge.oracles.self_attention import causal_self_attention


def cross_attention(
    parameters: Parameters,
    query: Array,
    memory: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Cross-attention with one head, Attention(X W^Q, M W^K, M W^V) (Vaswani et al. 2017, section 3.2.3).

    Parameters: `q_proj` (embed, query_dim), `k_proj` and `v_proj` (embed, key_dim), biases optional. There
    is no output projection. Returns the output and the weights (batch, query, key).
    """
    return scaled_dot_product_attention(
        {},
        linear(parameters, "q_proj", query),
        linear(parameters, "k_proj", memory),
        linear(parameters, "v_proj", memory),
        mask,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )


def multi_head_cross_attention(
    parameters: Parameters,
    query: Array,
    memory: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Multi-head cross-attention, MultiHead(X, M, M) (Vaswani et al. 2017, section 3.2.2).

    Parameters as in `cross_attention`, and `out_proj` (embed, embed). Returns the output and the weights (batch, heads,
    query, key).
    """
    return multi_head_attention(
        parameters,
        query,
        memory,
        mask,
        num_heads=num_heads,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )


def encoder_decoder_attention(
    parameters: Parameters,
    x: Array,
    memory: Array,
    self_mask: Array | None = None,
    memory_mask: Array | None = None,
    *,
    num_heads: int,
    norm_first: bool = False,
    activation: str = "relu",
    norm_eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """One Transformer decoder block: causal self-attention, cross-attention, feed-forward.

    Each sublayer f is x = norm(x + f(x)) (Vaswani et al. 2017, section 3.1), or with `norm_first` x = x + f(norm(x))
    (Xiong et al. 2020). The memory is not normalised.

    Parameters: `self_attention.{q,k,v,out}_proj`, `cross_attention.{q,k,v,out}_proj`, `ffn.{up,down}_proj`,
    and the norms `self_norm`, `cross_norm`, `ffn_norm`.
    Returns the output, the self-attention weights and the cross-attention weights.
    """

    def norm(name: str, x: Array) -> Array:
        return layer_norm(parameters, name, x, norm_eps)

    def attend_self(x: Array) -> tuple[Array, Array]:
        return causal_self_attention(scope(parameters, "self_attention"), x, self_mask, num_heads=num_heads)

    def attend_memory(x: Array) -> tuple[Array, Array]:
        return multi_head_cross_attention(
            scope(parameters, "cross_attention"), x, memory, memory_mask, num_heads=num_heads
        )

    def transform(x: Array) -> Array:
        return feed_forward(scope(parameters, "ffn"), x, activation)

    if norm_first:
        change, self_weights = attend_self(norm("self_norm", x))
        x = x + change
        change, cross_weights = attend_memory(norm("cross_norm", x))
        x = x + change
        x = x + transform(norm("ffn_norm", x))
    else:
        change, self_weights = attend_self(x)
        x = norm("self_norm", x + change)
        change, cross_weights = attend_memory(x)
        x = norm("cross_norm", x + change)
        x = norm("ffn_norm", x + transform(x))

    return x, self_weights, cross_weights
