r"""Rotary position embedding (RoPE): queries and keys are rotated by angles proportional to position (Su et al. 2021).

$$ q'_m = R_m q_m, \quad k'_n = R_n k_n, \qquad {q'_m}^\top k'_n = q_m^\top R_{n - m} k_n $$

R_m rotates feature pair i by the angle m θ_i, θ_i = base^(-2i/d), so a score depends only on the distance n - m.

| symbol | argument      |                                                                        |
|--------|---------------|------------------------------------------------------------------------|
| d      | `rotary_dim`  | number of rotated features, the first ones of the head                 |
| θ      | `frequencies` | one frequency per pair, in radians per position                        |
| pair i | `interleaved` | features i and i + d/2; if `interleaved`, features 2i and 2i + 1       |

The frequencies may depend on the length of the sequence: its largest query position + 1, for each row of `positions`
alone. With a KV cache, each step rotates all keys by the frequencies of the length so far; the hidden states of earlier
tokens keep the rotation of their own step.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.checks import check_divisible
from jax_attention.ops import Placed, at_least_float32
from jax_attention.positions.protocol import check_heads, positions_or_count


@checked
def rotary_frequencies(rotary_dim: int, base: float = 10000.0) -> tuple[float, ...]:
    """Frequencies θ_i = base^(-2i/d) of the d/2 feature pairs, in radians per position.

    Raises:
        ValueError: `rotary_dim` is odd.
    """
    check_divisible(rotary_dim=rotary_dim, pair=2)
    return tuple(base ** (-i / rotary_dim) for i in range(0, rotary_dim, 2))


@checked
def rotate(
    x: Float[Array, "... length head_dim"],
    angles: Float[Array, "... length pairs"],
    *,
    interleaved: bool = False,
    amplitude: float = 1.0,
) -> Float[Array, "... length head_dim"]:
    """Rotate the first features of `x` pair by pair; the features beyond the pairs are unchanged.

    Args:
        x: queries or keys, `(..., length, head_dim)`.
        angles: rotation angles in radians, `(..., length, pairs)`, broadcast to `x`.
        interleaved: whether features 2i and 2i + 1 make a pair, instead of i and i + pairs.
        amplitude: factor on the rotated features (YaRN, LongRoPE).
    """
    pairs, angles = angles.shape[-1], with_rank(angles, x.ndim)
    turned, rest = at_least_float32(x[..., : 2 * pairs]), x[..., 2 * pairs :]
    cosine, sine = amplitude * jnp.cos(angles), amplitude * jnp.sin(angles)  # ... length pairs
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]  # ... length pairs
    else:
        first, second = turned[..., :pairs], turned[..., pairs:]  # ... length pairs
    first, second = first * cosine - second * sine, second * cosine + first * sine
    if interleaved:
        turned = jnp.stack([first, second], axis=-1).reshape(turned.shape)  # ... length rotary_dim
    else:
        turned = jnp.concatenate([first, second], axis=-1)  # ... length rotary_dim
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)


@checked
class RotaryEmbedding(nnx.Module):
    """Rotary position embedding (RoPE): rotates queries and keys by position, without parameters (Su et al. 2021).

    Args:
        head_dim: features of a head.
        rotary_dim: number of rotated features; all if None. Fewer is partial rotary (GPT-NeoX, Phi).
        base: base of the frequencies; the longest wavelength is about `2 pi base` positions.
        interleaved: whether features 2i and 2i + 1 make a pair (GPT-J), instead of i and i + d/2 (Llama).
        frequencies: one frequency per pair, such as a function of `rotary_scaling` returns; computed from `base` if
            None.
        amplitude: factor on the rotated features.
        temperature: numbers a, n and c, which multiply the query at position p by 1 + a log(1 + floor((p + c) / n)), as
            in Llama 4 and Ministral 3; None for no such factor.
        original_length: length of a sequence above which the frequencies change; None for no change.
        long_frequencies: frequencies of sequences above `original_length` (LongRoPE); None for `frequencies`.
        ntk_factor: factor of dynamic NTK scaling above `original_length`, as in `dynamic_ntk_frequencies`; None for no
            scaling.

    Raises:
        ValueError: `rotary_dim` is odd or above `head_dim`, frequencies or `temperature` have a wrong length, or a
            change with the length has no `original_length`.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        rotary_dim: int | None = None,
        base: float = 10000.0,
        interleaved: bool = False,
        frequencies: Sequence[float] | None = None,
        amplitude: float = 1.0,
        temperature: Sequence[float] | None = None,
        original_length: int | None = None,
        long_frequencies: Sequence[float] | None = None,
        ntk_factor: float | None = None,
    ):
        rotary_dim = head_dim if rotary_dim is None else rotary_dim
        if rotary_dim > head_dim:
            raise ValueError(f"rotary_dim must be at most head_dim={head_dim}, got {rotary_dim}")
        by_base = rotary_frequencies(rotary_dim, base)
        for name, given in (("frequencies", frequencies), ("long_frequencies", long_frequencies)):
            if given is not None and len(given) != len(by_base):
                raise ValueError(
                    f"{name} must hold {len(by_base)} numbers for rotary_dim={rotary_dim}, got {len(given)}"
                )
        if original_length is None and (long_frequencies is not None or ntk_factor is not None):
            raise ValueError("original_length must be given with long_frequencies or ntk_factor, got None")
        if ntk_factor is not None and rotary_dim <= 2:
            raise ValueError(f"rotary_dim must be above 2 with ntk_factor, got {rotary_dim}")
        self.head_dim = head_dim
        self.interleaved = interleaved
        self.frequencies = by_base if frequencies is None else tuple(frequencies)
        self.amplitude = amplitude
        if temperature is not None and len(temperature) != 3:
            raise ValueError(f"temperature must hold three numbers, got {len(temperature)}")
        self.temperature = None if temperature is None else tuple(temperature)
        self.original_length = original_length
        self.long_frequencies = self.frequencies if long_frequencies is None else tuple(long_frequencies)
        self.ntk_factor = ntk_factor
        if temperature is not None:
            self.fixed_positions = "its temperature depends on the position of a query"

    def __call__(
        self,
        query: Float[Array, "batch heads query head_dim"],
        key: Float[Array, "batch kv_heads key head_dim"],
        query_positions: Int[Array, "..."] | None = None,
        key_positions: Int[Array, "..."] | None = None,
    ) -> Placed:
        """Rotate queries and keys; arguments as in `place`.

        Raises:
            ValueError: the heads do not have `head_dim` features.
        """
        check_heads(query, key, head_dim=self.head_dim)
        thetas = self._thetas(query, query_positions)
        turned = self._turn(query, query_positions, thetas)
        if self.temperature is not None:
            turned = self._heat(turned, query_positions)
        return Placed(turned, self._turn(key, key_positions, thetas), None)

    def _thetas(
        self, query: Float[Array, "batch heads query head_dim"], positions: Int[Array, "..."] | None
    ) -> Float[Array, "..."]:
        """Frequencies, `(pairs)`, or `(batch, 1, 1, pairs)` if they depend on the length of each sequence."""
        wide = at_least_float32(query).dtype
        thetas = jnp.asarray(self.frequencies, dtype=wide)  # pairs
        if self.original_length is None or not query.shape[-2]:
            return thetas
        positions = positions_or_count(positions, query.shape[-2])  # query, or batch query
        length = jnp.amax(positions, -1)[..., None].astype(wide) + 1.0  # 1, or batch 1
        length = length[:, None, None] if length.ndim == 2 else length  # 1, or batch 1 1 1
        others = jnp.asarray(self.long_frequencies, dtype=wide)  # pairs
        thetas, others = with_rank(thetas, length.ndim), with_rank(others, length.ndim)
        thetas = jnp.where(length > self.original_length, others, thetas)  # pairs, or batch 1 1 pairs
        if self.ntk_factor is None:
            return thetas
        longer = jnp.clip(length / self.original_length, min=1.0) - 1.0  # 1, or batch 1 1 1
        each = [-2.0 * i / (2.0 * thetas.shape[-1] - 2.0) for i in range(thetas.shape[-1])]
        powers = with_rank(jnp.asarray(each, dtype=wide), length.ndim)
        return thetas * (1.0 + self.ntk_factor * longer) ** powers

    def _turn(
        self,
        x: Float[Array, "batch heads length head_dim"],
        positions: Int[Array, "..."] | None,
        thetas: Float[Array, "..."],
    ) -> Float[Array, "batch heads length head_dim"]:
        positions = positions_or_count(positions, x.shape[-2])  # length, or batch length
        positions = positions[:, None] if positions.ndim == 2 else positions  # length, or batch 1 length
        rank = max(positions.ndim + 1, thetas.ndim)
        places = with_rank(positions[..., None].astype(thetas.dtype), rank)  # ... length 1
        angles = places * with_rank(thetas, rank)  # ... length pairs
        return rotate(x, angles, interleaved=self.interleaved, amplitude=self.amplitude)

    def _heat(
        self, x: Float[Array, "batch heads length head_dim"], positions: Int[Array, "..."] | None
    ) -> Float[Array, "batch heads length head_dim"]:
        strength, interval, start = self.temperature or (0.0, 1.0, 0.0)
        wide = at_least_float32(x)
        positions = positions_or_count(positions, x.shape[-2])  # length, or batch length
        positions = positions[:, None] if positions.ndim == 2 else positions  # length, or batch 1 length
        steps = jnp.floor((positions[..., None].astype(wide.dtype) + start) / interval)  # ... length 1
        factor = 1.0 + strength * jnp.log1p(steps)  # ... length 1
        return (wide * with_rank(factor, 4)).astype(x.dtype)


def main() -> None:
    """Print attention weights of repeated words, whose scores depend only on content and distance."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.self_attention import MultiHeadSelfAttention

    words = ["one", "two", "one", "two"]
    x = draw(1, 2, 8)
    x = jnp.concatenate([x, x], axis=1)
    attention = fill(
        MultiHeadSelfAttention(embed_dim=8, num_heads=2, position=RotaryEmbedding(4), rngs=nnx.Rngs(0))
    )
    show("MultiHeadSelfAttention with RotaryEmbedding", attention(x), words, words)


if __name__ == "__main__":
    main()
