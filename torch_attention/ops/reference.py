"""The definition as an implementation: it can do every call, and makes the whole matrix of weights."""

from jaxtyping import Float
from torch import Tensor

from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.definition import call_values, call_weights


def reference_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Weights first, then the mean of the values under them."""
    return call_values(call, call_weights(call))


REFERENCE = Implementation("reference", lambda call: None, reference_attention)
