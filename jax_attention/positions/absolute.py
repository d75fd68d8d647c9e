r"""Absolute positional embeddings: a vector per position is added to the input sequence before attention.

$$ x'_p = x_p + e_p, \qquad e_{p,\,2i} = \sin(p\,\theta_i), \quad e_{p,\,2i+1} = \cos(p\,\theta_i), \quad
   \theta_i = 10000^{-2i/d} $$

| class                 | e_p                          | source                                   |
|-----------------------|------------------------------|------------------------------------------|
| `SinusoidalEmbedding` | fixed, as above              | Vaswani et al. 2017, section 3.5         |
| `LearnedEmbedding`    | a row of a learned table     | Gehring et al. 2017; Devlin et al. 2018  |

These modules are applied to the sequence, `x = embedding(x)`; the other positional encodings are passed to an
attention class as `position`.

| symbol | argument    |
|--------|-------------|
| x      | `x`         |
| p      | `positions` |
| d      | `embed_dim` |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.checks import check_divisible, check_positive, check_sequence
from jax_attention.layers import Factory, embedding
from jax_attention.ops import at_least_float32
from jax_attention.ops.arrays import known_above, known_values
from jax_attention.positions.protocol import check_shape, positions_or_count
from jax_attention.positions.rotary import rotary_frequencies


@checked
def sinusoid(
    positions: Int[Array, "... length"], frequencies: Float[Array, " pairs"], *, interleaved: bool = True
) -> Float[Array, "... length embed"]:
    """Sine and cosine of each position times each frequency, interleaved or with all sines first."""
    angles = positions[..., None].astype(frequencies.dtype)  # ... length 1
    angles = angles * with_rank(frequencies, angles.ndim)  # ... length pairs
    sine, cosine = jnp.sin(angles), jnp.cos(angles)  # ... length pairs
    if interleaved:
        return jnp.stack([sine, cosine], axis=-1).reshape(
            (*angles.shape[:-1], 2 * angles.shape[-1])
        )  # ... length embed
    return jnp.concatenate([sine, cosine], axis=-1)  # ... length embed


@checked
class SinusoidalEmbedding(nnx.Module):
    """Sinusoidal positional embedding: fixed sines and cosines for any length (Vaswani et al. 2017).

    Args:
        embed_dim: features of the sequence; even.
        base: base of the frequencies; the longest wavelength is about `2 pi base` positions.
        interleaved: whether features 2i and 2i + 1 are a sine and its cosine, as in the paper; otherwise all sines
            come before all cosines (Tensor2Tensor, Marian).

    Raises:
        ValueError: `embed_dim` is odd.
    """

    def __init__(self, embed_dim: int, *, base: float = 10000.0, interleaved: bool = True):
        check_divisible(embed_dim=embed_dim, pair=2)
        self.embed_dim = embed_dim
        self.interleaved = interleaved
        self.frequencies = rotary_frequencies(embed_dim, base)

    def __call__(
        self, x: Float[Array, "batch length embed"], positions: Int[Array, "..."] | None = None
    ) -> Float[Array, "batch length embed"]:
        """Add the embedding of each position.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            positions: positions of the tokens, `(length,)` or `(batch, length)`; None counts from 0.

        Raises:
            ValueError: shapes do not match.
        """
        check_sequence("x", x, self.embed_dim)
        check_shape("positions", positions, x)
        wide = at_least_float32(x)  # batch length embed
        frequencies = jnp.asarray(self.frequencies, dtype=wide.dtype)  # pairs
        positions = positions_or_count(positions, x.shape[1])  # length, or batch length
        added = sinusoid(
            positions, frequencies, interleaved=self.interleaved
        )  # length, or batch length, embed
        return (wide + with_rank(added, 3)).astype(x.dtype)


@checked
class LearnedEmbedding(nnx.Module):
    """Learned positional embedding with a maximum length (Gehring et al. 2017).

    Args:
        max_len: number of positions in the table.
        embed_dim: features of the sequence.

    Raises:
        ValueError: `max_len` is below 1.
    """

    def __init__(
        self,
        max_len: int,
        embed_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(max_len=max_len)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.max_len = max_len
        self.embed_dim = embed_dim
        self.position_embedding = embedding(max_len, embed_dim, **factory)

    def __call__(
        self, x: Float[Array, "batch length embed"], positions: Int[Array, "..."] | None = None
    ) -> Float[Array, "batch length embed"]:
        """Add the embedding of each position.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            positions: positions of the tokens, `(length,)` or `(batch, length)`, from 0 to `max_len - 1`; None counts
                from 0.

        Raises:
            ValueError: shapes do not match, or a position is outside the table. Compiled code does not check the
                values of `positions`.
        """
        check_sequence("x", x, self.embed_dim)
        check_shape("positions", positions, x)
        self._check_rows(x, positions)
        positions = positions_or_count(positions, x.shape[1])  # length, or batch length
        return x + with_rank(self.position_embedding(positions).astype(x.dtype), 3)  # batch length embed

    def _check_rows(self, x: Float[Array, "batch length embed"], positions: Int[Array, "..."] | None) -> None:
        if positions is None:
            if known_above(x.shape[1], self.max_len):
                raise ValueError(f"x must have at most max_len={self.max_len} positions, got {x.shape[1]}")
            return
        values = known_values(positions)
        if values is not None and values.size and not 0 <= values.min() <= values.max() < self.max_len:
            raise ValueError(
                f"positions must be from 0 to {self.max_len - 1}, for max_len={self.max_len}, "
                f"got {values.min()} to {values.max()}"
            )


def main() -> None:
    """Print the embeddings of four positions with six features each."""
    from jax_attention.demonstration import draw, fill

    nothing = 0.0 * draw(1, 4, 6)
    for module in (SinusoidalEmbedding(6), fill(LearnedEmbedding(max_len=4, embed_dim=6, rngs=nnx.Rngs(0)))):
        print(f"\n{type(module).__name__}: features by position")
        for position, added in enumerate(module(nothing)[0].tolist()):
            print(f"{position:>10}" + "".join(f"{number:8.3f}" for number in added))


if __name__ == "__main__":
    main()
