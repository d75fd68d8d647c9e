r"""ALiBi, attention with linear biases: a penalty proportional to distance, with a slope per head (Press et al. 2021).

$$ s_{ij} = q_i^\top k_j / \sqrt{d} - m_h \, |i - j| $$

The paper has $-m_h (i - j)$ for $j \le i$, which is the same for causal attention. Without a causal mask, later keys
get the same penalty as earlier ones (the symmetric form). The bias is the only change to attention, and is not learned.

| symbol | argument    |                                                                                  |
|--------|-------------|----------------------------------------------------------------------------------|
| m_h    | `num_heads` | 2^(-8/H), 2^(-16/H), ... for H heads, a power of two; else see `alibi_slopes`    |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.checks import check_positive
from jax_attention.ops import Placed, at_least_float32
from jax_attention.positions.protocol import check_heads, distances


@checked
def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """Slope m_h of each head (Press et al. 2021, section 3).

    For a power of two H, the slopes are the geometric sequence that starts at 2^(-8/H) with the same ratio. For other
    H, they are the slopes for the largest power of two below H, followed by every other slope for twice that power.

    Raises:
        ValueError: `num_heads` is below 1.
    """
    check_positive(num_heads=num_heads)
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (h + 1) / power) for h in range(power)]
    finer = [2.0 ** (-4.0 * (h + 1) / power) for h in range(0, 2 * power, 2)]
    return tuple(slopes + finer[: num_heads - power])


@checked
class ALiBi(nnx.Module):
    """ALiBi: a bias of the scores that decreases linearly with distance, without parameters (Press et al. 2021).

    Args:
        num_heads: number of query heads.

    Raises:
        ValueError: `num_heads` is below 1.
    """

    def __init__(self, num_heads: int):
        self.num_heads = num_heads
        self.slopes = alibi_slopes(num_heads)

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Return queries and keys unchanged, with the bias; arguments as in `place`.

        Raises:
            ValueError: the number of query heads is not `num_heads`.
        """
        check_heads(query, key, num_heads=self.num_heads)
        wide = at_least_float32(query).dtype
        distance = abs(distances(query, key, query_positions, key_positions))  # 1|batch 1 query key
        slopes = jnp.asarray(self.slopes, dtype=wide)  # heads
        bias = -slopes[None, :, None, None] * distance.astype(wide)  # 1|batch heads query key
        return Placed(query, key, bias)


def main() -> None:
    """Print the slopes of six heads, and the weights of causal attention with ALiBi."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.self_attention import CausalSelfAttention

    words = ["one", "two", "three", "four"]
    attention = fill(CausalSelfAttention(embed_dim=6, num_heads=3, position=ALiBi(3), rngs=nnx.Rngs(0)))
    print("slopes of 6 heads:", " ".join(f"{slope:.3f}" for slope in alibi_slopes(6)))
    show("CausalSelfAttention with ALiBi", attention(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
