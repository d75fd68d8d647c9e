r"""Rotary embedding for positions of several coordinates: each pair turns by one of them (Wang et al. 2024).

$$ q_p \to R_p\, q_p, \qquad R_p \text{ turns pair } i \text{ by the angle } p_{a(i)}\, \theta_i $$

One change from `RotaryEmbedding`: a position is a vector p, and every pair i has an axis a(i) that it follows.

| class                      | a(i)                                | θ_i                                            |
|----------------------------|-------------------------------------|------------------------------------------------|
| `MultiAxisRotaryEmbedding` | runs of `sections` pairs            | base^(-2i/d): each axis has a band of its own  |
| `AxialRotaryEmbedding`     | runs of equal length                | each axis begins again at the fastest          |

The first is M-RoPE (time, height, width in Qwen2-VL): text, whose coordinates are all equal, is turned as by
`RotaryEmbedding`. The second is that of vision transformers (row, column). Pairs are features i and i + d/2.
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
    """The angle of each pair: the coordinate on its axis times its frequency."""
    followed = positions[..., jnp.asarray(axes)]  # ... length pairs
    return followed.astype(frequencies.dtype) * with_rank(frequencies, followed.ndim)  # ... length pairs


@checked
def turn(
    x: Float[Array, "batch heads length head_dim"],
    positions: Int[Array, "..."] | None,
    axes: Sequence[int],
    frequencies: Sequence[float],
) -> Float[Array, "batch heads length head_dim"]:
    """Turn queries or keys at positions `(length, axes)` or `(batch, length, axes)`; None counts on every axis."""
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
    """Bands of the frequencies follow different coordinates; has no parameters (Wang et al. 2024, Qwen2-VL).

    Args:
        head_dim: features of a head.
        sections: how many pairs follow each coordinate, from the fastest pairs on; `head_dim / 2` in all.
        base: as in `RotaryEmbedding`.

    Raises:
        ValueError: the sections are not as many pairs as there are.
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
        """Turn queries and keys; arguments as in `place`, with a last axis of `num_axes` coordinates.

        Raises:
            ValueError: heads of another `head_dim`.
        """
        check_heads(query, key, head_dim=self.head_dim)
        return Placed(
            turn(query, query_positions, self.axes, self.frequencies),
            turn(key, key_positions, self.axes, self.frequencies),
            None,
        )


@checked
class AxialRotaryEmbedding(nnx.Module):
    """Equal shares of a head follow the coordinates, each with all frequencies (Heo et al. 2024); no parameters.

    Args:
        head_dim: features of a head; a multiple of `2 * num_axes`.
        num_axes: coordinates of a position: 2 for rows and columns.
        base: the frequencies of an axis are base^(-2i/(head_dim/num_axes)).

    Raises:
        ValueError: `head_dim` does not divide.
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
        """Turn queries and keys; as in `MultiAxisRotaryEmbedding`.

        Raises:
            ValueError: heads of another `head_dim`.
        """
        check_heads(query, key, head_dim=self.head_dim)
        return Placed(
            turn(query, query_positions, self.axes, self.frequencies),
            turn(key, key_positions, self.axes, self.frequencies),
            None,
        )


def main() -> None:
    """Show four patches of an image, two by two, that are all alike and differ in where they stand alone."""
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
