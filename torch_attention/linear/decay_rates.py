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

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.activations import softplus
from torch_attention.arguments import checked
from torch_attention.arrays import with_rank
from torch_attention.ops import at_least_float32

RATES = (1.0, 16.0)
LOG_STEPS = (math.log(1e-3), math.log(1e-1))


@checked
def step_bias(log_step: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Inverse of the softplus: the bias b with softplus(b) = exp(`log_step`)."""
    step = torch.exp(log_step)
    return step + torch.log(-torch.expm1(-step))


@checked
def time_step(a: Float[Tensor, "... features"], dt_bias: Float[Tensor, "features"]) -> Float[Tensor, "..."]:
    """Time step Δ = softplus(a + b), in at least float32."""
    return softplus(at_least_float32(a) + with_rank(at_least_float32(dt_bias), a.ndim))


@checked
def log_fading(
    a: Float[Tensor, "... heads"], log_rate: Float[Tensor, "heads"], dt_bias: Float[Tensor, "heads"]
) -> Float[Tensor, "... heads"]:
    """Logarithm of the decay factor of the state in each step, in at least float32."""
    return -with_rank(torch.exp(at_least_float32(log_rate)), a.ndim) * time_step(a, dt_bias)
