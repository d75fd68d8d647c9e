r"""Gated recurrent unit (Cho et al. 2014), with gates and names as in PyTorch's `GRUCell`.

$$ r = \sigma(W_{ir} x + b_{ir} + W_{hr} h + b_{hr}), \quad z = \sigma(W_{iz} x + b_{iz} + W_{hz} h + b_{hz}), \quad
   n = \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn})), \quad h' = (1 - z) \odot n + z \odot h $$

| symbol             | parameter              |                                          |
|--------------------|------------------------|------------------------------------------|
| W_ir, W_iz, W_in   | `weight_ih`, `bias_ih` | concatenated rows, `(3 hidden, input)`   |
| W_hr, W_hz, W_hn   | `weight_hh`, `bias_hh` | concatenated rows, `(3 hidden, hidden)`  |
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.activations import sigmoid
from jax_attention.arguments import checked
from jax_attention.arrays import matmul, with_rank
from jax_attention.layers import Factory, constant_parameter, parameter
from jax_attention.ops import at_least_float32


@checked
def gru_step(
    from_input: Float[Array, "... gates"],
    from_state: Float[Array, "... gates"],
    state: Float[Array, "... hidden"],
) -> Float[Array, "... hidden"]:
    """Compute the next state from the affine maps of the input and of the state.

    Args:
        from_input, from_state: affine maps of input and state, each the concatenated reset, update and new gates.
        state: previous state.

    Returns:
        Next state, `(..., hidden)`.
    """
    reset_in, update_in, new_in = rearrange(from_input, "... (gate hidden) -> gate ... hidden", gate=3)
    reset_state, update_state, new_state = rearrange(
        from_state, "... (gate hidden) -> gate ... hidden", gate=3
    )
    reset, update = sigmoid(reset_in + reset_state), sigmoid(update_in + update_state)  # ... hidden
    new = jnp.tanh(new_in + reset * new_state)  # ... hidden
    return (1 - update) * new + update * state


@checked
class GRUCell(nnx.Module):
    """Gated recurrent unit for a single step, applied to each vector separately (Cho et al. 2014).

    Args:
        input_dim: features of an input.
        hidden_dim: features of a state.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        std = (3 * hidden_dim) ** -0.5  # standard deviation of PyTorch's uniform initialisation
        self.weight_ih = parameter(3 * hidden_dim, input_dim, std=std, **factory)
        self.weight_hh = parameter(3 * hidden_dim, hidden_dim, std=std, **factory)
        self.bias_ih = constant_parameter(3 * hidden_dim, value=0.0, **factory)
        self.bias_hh = constant_parameter(3 * hidden_dim, value=0.0, **factory)

    def __call__(
        self, x: Float[Array, "... input"], state: Float[Array, "... hidden"]
    ) -> Float[Array, "... hidden"]:
        """Compute the next state from input and state, in the dtype of the state."""
        wide_x, wide_state = at_least_float32(x), at_least_float32(state)
        biases = self.bias_ih[...], self.bias_hh[...]
        to_input, to_state = (with_rank(at_least_float32(bias), x.ndim) for bias in biases)
        from_input = matmul(wide_x, at_least_float32(self.weight_ih[...]).T) + to_input
        from_state = matmul(wide_state, at_least_float32(self.weight_hh[...]).T) + to_state
        return gru_step(from_input, from_state, wide_state).astype(state.dtype)
