r"""Feed-forward network with the activation xIELU, whose slopes are learned (Huang & Schlag 2024).

$$ y = B\, f(A x), \qquad f(x) = \beta x + \begin{cases} \alpha_p\, x^2 & x > 0 \\
     \alpha_n (e^{\min(x, \varepsilon)} - 1 - x) & x \le 0 \end{cases}, \qquad
   \alpha_p = \mathrm{softplus}(a_p), \quad \alpha_n = \beta + \mathrm{softplus}(a_n) $$

| symbol                   | argument or parameter                  |
|--------------------------|----------------------------------------|
| A, B                     | `up_proj`, `down_proj`                 |
| $a_p$, $a_n$             | `alpha_p`, `alpha_n`                   |
| $\beta$, $\varepsilon$ | `beta` and `epsilon`, which are not learned |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.activations import softplus
from jax_attention.arguments import checked
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, constant_buffer, constant_parameter, linear
from jax_attention.ops import at_least_float32


@checked
class XIELUFeedForward(nnx.Module):
    """Feed-forward network down(f(up(x))) with the learned activation xIELU (Huang & Schlag 2024; Apertus, 2025).

    Args:
        embed_dim: features of input and output.
        ffn_dim: hidden features.
        bias: whether the two projections have biases.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        *,
        bias: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.up_proj = linear(embed_dim, ffn_dim, bias=bias, **factory)
        self.down_proj = linear(ffn_dim, embed_dim, bias=bias, **factory)
        self.alpha_p = constant_parameter(1, value=0.2033, **factory)  # softplus gives 0.8
        self.alpha_n = constant_parameter(1, value=-1.0502, **factory)  # softplus gives 0.3
        self.beta = constant_buffer(value=0.5, **factory)
        self.epsilon = constant_buffer(value=-1e-6, **factory)

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Apply the network to each position of `x`, `(batch, length, embed_dim)`."""
        check_sequence("x", x, self.embed_dim)
        wide = at_least_float32(self.up_proj(x))  # batch length ffn
        beta, least = self.beta[...].astype(wide.dtype), self.epsilon[...].astype(wide.dtype)
        positive = softplus(self.alpha_p[...].astype(wide.dtype))  # 1
        negative = beta + softplus(self.alpha_n[...].astype(wide.dtype))  # 1
        above = positive * wide * wide  # batch length ffn
        below = negative * (jnp.expm1(jnp.minimum(wide, least)) - wide)  # batch length ffn
        hidden = jnp.where(wide > 0, above, below) + beta * wide  # batch length ffn
        return self.down_proj(hidden.astype(x.dtype))  # batch length embed
