"""Reference implementation of self-attention: with one head, with many heads, and causal."""

from attention_bridge.oracles.attention_basics import scaled_dot_product_attention
from attention_bridge.oracles.common import Array, Parameters, linear, multi_head_attention


def self_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Self-attention with one head, Attention(X W^Q, X W^K, X W^V) (Vaswani et al. 2017, eq. 1).

    Parameters: `q_proj`, `k_proj`, `v_proj`, biases optional. There is no output projection. Returns the output and the
    weights (batch, query, key).
    """
    return scaled_dot_product_attention(
        {},
        linear(parameters, "q_proj", x),
        linear(parameters, "k_proj", x),
        linear(parameters, "v_proj", x),
        mask,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )


def multi_head_self_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Multi-head self-attention, MultiHead(X, X, X) (Vaswani et al. 2017, section 3.2.2).

    Parameters: `q_proj`, `k_proj`, `v_proj`, `out_proj`, biases optional. Returns the output and the weights (batch,
    heads, query, key).
    """
    return multi_head_attention(
        parameters, x, x, mask, num_heads=num_heads, dropout_keep=dropout_keep, dropout_rate=dropout_rate
    )


def causal_self_attention(
    parameters: Parameters,
    x: Array,
    mask: Array | None = None,
    *,
    num_heads: int,
    dropout_keep: Array | None = None,
    dropout_rate: float = 0.0,
) -> tuple[Array, Array]:
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2.3).

    Position i attends only to unmasked positions j ≤ i. Parameters as in `multi_head_self_attention`.
    """
    return multi_head_attention(
        parameters,
        x,
        x,
        mask,
        num_heads=num_heads,
        is_causal=True,
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
    )
