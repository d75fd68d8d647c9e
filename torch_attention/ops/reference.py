"""The definition as an implementation: it can do every call, and makes the whole matrix of weights."""

from typing import Any

from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.definition import call_logsumexp, call_values, call_weights


def reference_attention(call: Call) -> Any:
    """Weights first, then the mean of the values under them."""
    output = call_values(call, call_weights(call))  # ... heads query value_dim
    return (output, call_logsumexp(call)) if call.return_logsumexp else output


REFERENCE = Implementation("reference", lambda call: None, reference_attention)
