"""The definition as an implementation: it can do every call, and makes the whole matrix of weights."""

from jaxtyping import Float
from torch import Tensor

from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.definition import dot_product_attention_weights, weighted_values


def reference_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Weights first, then the mean of the values under them."""
    weights = dot_product_attention_weights(
        call.query,
        call.key,
        call.bias,
        call.mask,
        is_causal=call.is_causal,
        window=call.window,
        query_offset=call.query_offset,
        scale=call.scale,
        softcap=call.softcap,
        sinks=call.sinks,
    )
    return weighted_values(
        weights, call.value, dropout_keep=call.dropout_keep, dropout_rate=call.dropout_rate
    )


REFERENCE = Implementation("reference", lambda call: None, reference_attention)
