r"""Output norm and gate of Mamba-2 (Dao & Gu 2024): an RMS norm per group of features.

$$ y = \mathrm{norm}(x \odot \mathrm{SiLU}(z)), \qquad \text{or} \quad
   y = \mathrm{norm}(x) \odot \mathrm{SiLU}(z), \qquad \text{or} \quad y = x \odot \mathrm{SiLU}(z) $$

| symbol | argument                                   |
|--------|--------------------------------------------|
| z      | `gate`                                     |
| norm   | `grouped_rms_norm`, in `num_groups` groups |
"""

import jax.numpy as jnp
from einops import rearrange, repeat
from jax import Array
from jaxtyping import Float

from jax_attention.activations import silu
from jax_attention.arguments import checked
from jax_attention.ops import at_least_float32

ORDERS = ("after_gate", "before_gate")


@checked
def grouped_rms_norm(
    x: Float[Array, "batch length features"],
    scale: Float[Array, "features"],
    num_groups: int,
    eps: float,
) -> Float[Array, "batch length features"]:
    """Divide each group of features by its root mean square and multiply by `scale`, in at least float32."""
    wide = at_least_float32(x)
    squares = rearrange(wide * wide, "b l (g f) -> b l g f", g=num_groups)
    root = jnp.sqrt(squares.mean(axis=-1) + eps)  # batch length groups
    normalised = wide / repeat(root, "b l g -> b l (g f)", f=squares.shape[-1])  # batch length features
    return normalised.astype(x.dtype) * scale[None, None]


@checked
def gated_norm(
    x: Float[Array, "batch length features"],
    gate: Float[Array, "batch length features"],
    scale: Float[Array, "features"] | None,
    num_groups: int,
    eps: float,
    order: str | None,
) -> Float[Array, "batch length features"]:
    """Multiply by SiLU(`gate`) and normalise, in at least float32.

    Args:
        x: output of the recurrence, in at least float32.
        gate: gate, z in the formula.
        scale: factor of each feature in the norm; None without a norm.
        num_groups: number of groups of features.
        eps: constant added to the mean square.
        order: `"after_gate"` to normalise the gated output, `"before_gate"` to normalise before the gate; None for no
            norm.
    """
    if order == "before_gate" and scale is not None:
        x = grouped_rms_norm(x, scale, num_groups, eps)  # batch length features
    x = x * at_least_float32(silu(gate))  # batch length features
    return grouped_rms_norm(x, scale, num_groups, eps) if order == "after_gate" and scale is not None else x


def check_gated_norm(order: str | None) -> None:
    """Raise ValueError unless `order` is one of the orders of norm and gate, or None."""
    if order is not None and order not in ORDERS:
        raise ValueError(f"norm_order must be one of {', '.join(ORDERS)}, or None, got {order!r}")
