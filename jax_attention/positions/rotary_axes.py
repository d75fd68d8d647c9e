r"""Rotary embedding for positions with several coordinates: each pair rotates by one of them (Wang et al. 2024).

$$ q_p \to R_p\, q_p, \qquad R_p \text{ rotates pair } i \text{ by the angle } p_{a(i)}\, \theta_i $$

One change from `RotaryEmbedding`: a position is a vector p, and pair i rotates by its coordinate on axis a(i).

| class                      | a(i)                                | θ_i                                            |
|----------------------------|-------------------------------------|------------------------------------------------|
| `MultiAxisRotaryEmbedding` | runs of `sections` pairs            | base^(-2i/d): each axis has its own band       |
| `AxialRotaryEmbedding`     | runs of equal length                | each axis has the full range of frequencies    |

The first is M-RoPE (time, height, width in Qwen2-VL): text tokens, whose coordinates are all equal, are rotated as by
`RotaryEmbedding`. The second is used in vision transformers (row, column). Pairs are features i and i + d/2.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import repeat
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.checks import check_divisible
from jax_attention.ops import Placed, at_least_float32
from jax_attention.positions.protocol import check_heads
from jax_attention.positions.rotary import rotary_frequencies, rotate


@checked
def axis_angles(
    positions: Int[Array, "... length axes"], axes: Sequence[int], frequencies: Float[Array, " pairs"]
) -> Float[Array, "... length pairs"]:
    """Angle of each pair: the coordinate on its axis times its frequency."""
    followed = positions[..., jnp.asarray(axes)]  # ... length pairs
    return followed.astype(frequencies.dtype) * with_rank(frequencies, followed.ndim)  # ... length pairs


@checked
def turn(
    x: Float[Array, "batch heads length head_dim"],
    positions: Int[Array, "..."] | None,
    axes: Sequence[int],
    frequencies: Sequence[float],
) -> Float[Array, "batch heads length head_dim"]:
    """Rotate queries or keys at positions `(length, axes)` or `(batch, length, axes)`; None counts on every axis."""
    if positions is None:
        count = jnp.arange(x.shape[-2])  # length
        positions = repeat(count, "length -> length axes", axes=max(axes) + 1)
    positions = (
        positions[:, None] if positions.ndim == 3 else positions
    )  # length axes, or batch 1 length axes
    thetas = jnp.asarray(frequencies, dtype=at_least_float32(x).dtype)  # pairs
    return rotate(x, axis_angles(positions, axes, thetas))


@checked
class MultiAxisRotaryEmbedding(nnx.Module):
    """Multi-axis RoPE (M-RoPE): one frequency band per coordinate, without parameters (Wang et al. 2024, Qwen2-VL).

    Args:
        head_dim: features of a head.
        sections: number of pairs per coordinate, from the highest frequency on; the sum is `head_dim / 2`.
        base: base of the frequencies; the longest wavelength is about `2 pi base` positions.

    Raises:
        ValueError: the sections do not sum to `head_dim / 2`, or one is below 1.
    """

    def __init__(self, head_dim: int, sections: Sequence[int], *, base: float = 10000.0):
        frequencies = rotary_frequencies(head_dim, base)
        if min(sections, default=0) < 1 or sum(sections) != len(frequencies):
            raise ValueError(
                f"sections must be at least 1 each and sum to the {len(frequencies)} pairs of "
                f"head_dim={head_dim}, got {tuple(sections)}"
            )
        self.head_dim = head_dim
        self.num_axes = len(sections)
        self.axes = tuple(axis for axis, pairs in enumerate(sections) for _ in range(pairs))
        self.frequencies = frequencies

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Rotate queries and keys; arguments as in `place`, with `num_axes` coordinates per position.

        Raises:
            ValueError: the heads do not have `head_dim` features.
        """
        check_heads(query, key, head_dim=self.head_dim)
        return Placed(
            turn(query, query_positions, self.axes, self.frequencies),
            turn(key, key_positions, self.axes, self.frequencies),
            None,
        )


@checked
class AxialRotaryEmbedding(nnx.Module):
    """Axial RoPE: equal parts of a head for each coordinate, without parameters (Heo et al. 2024).

    Each part has the full range of frequencies.

    Args:
        head_dim: features of a head; a multiple of `2 * num_axes`.
        num_axes: number of coordinates of a position: 2 for row and column.
        base: base of the frequencies, base^(-2i/(head_dim/num_axes)) for each axis.

    Raises:
        ValueError: `head_dim` is not a multiple of `2 * num_axes`.
    """

    def __init__(self, head_dim: int, *, num_axes: int = 2, base: float = 10000.0):
        check_divisible(head_dim=head_dim, pairs=2 * num_axes)
        share = rotary_frequencies(head_dim // num_axes, base)
        self.head_dim = head_dim
        self.num_axes = num_axes
        self.axes = tuple(axis for axis in range(num_axes) for _ in share)
        self.frequencies = share * num_axes

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Rotate queries and keys; arguments as in `place`, with `num_axes` coordinates per position.

        Raises:
            ValueError: the heads do not have `head_dim` features.
        """
        check_heads(query, key, head_dim=self.head_dim)
        return Placed(
            turn(query, query_positions, self.axes, self.frequencies),
            turn(key, key_positions, self.axes, self.frequencies),
            None,
        )


def main() -> None:
    """Print attention weights of four identical image patches, which differ only in their positions."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.self_attention import MultiHeadSelfAttention

    patches = ["0,0", "0,1", "1,0", "1,1"]
    positions = jnp.asarray([[0, 0], [0, 1], [1, 0], [1, 1]])
    x = repeat(draw(1, 8), "batch embed -> batch length embed", length=4)
    for position in (MultiAxisRotaryEmbedding(4, sections=(1, 1)), AxialRotaryEmbedding(4)):
        attention = fill(
            MultiHeadSelfAttention(embed_dim=8, num_heads=2, position=position, rngs=nnx.Rngs(0))
        )
        show(type(position).__name__, attention(x, positions=positions), patches, patches)


if __name__ == "__main__":
    main()
