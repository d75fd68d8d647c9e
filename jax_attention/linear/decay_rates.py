r"""Data-dependent decay rates of a recurrent state (Gu & Dao 2023).

$$ \log \alpha_t = -e^A \Delta_t, \qquad \Delta_t = \mathrm{softplus}(a_t + b) $$

It is a continuous decay at the rate e^A, discretised with a time step Δ that depends on the token.

| symbol | argument   | initial value                                     |
|--------|------------|---------------------------------------------------|
| A      | `log_rate` | e^A is uniform between 1 and 16                   |
| b      | `dt_bias`  | softplus(b) is log-uniform between 0.001 and 0.1  |
| a      | `a`        | a projection of the token                         |
"""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jax_attention.activations import softplus
from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.ops import at_least_float32

RATES = (1.0, 16.0)
LOG_STEPS = (math.log(1e-3), math.log(1e-1))


@checked
def step_bias(log_step: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse of the softplus: the bias b with softplus(b) = exp(`log_step`)."""
    step = jnp.exp(log_step)
    return step + jnp.log(-jnp.expm1(-step))


@checked
def time_step(a: Float[Array, "... features"], dt_bias: Float[Array, "features"]) -> Float[Array, "..."]:
    """Time step Δ = softplus(a + b), in at least float32."""
    return softplus(at_least_float32(a) + with_rank(at_least_float32(dt_bias), a.ndim))


@checked
def log_fading(
    a: Float[Array, "... heads"], log_rate: Float[Array, "heads"], dt_bias: Float[Array, "heads"]
) -> Float[Array, "... heads"]:
    """Logarithm of the decay factor of the state in each step, in at least float32."""
    return -with_rank(jnp.exp(at_least_float32(log_rate)), a.ndim) * time_step(a, dt_bias)
