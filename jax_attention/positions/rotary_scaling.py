r"""RoPE scaling: rotary frequencies for sequences longer than the training length.

$$ \theta_i \to f(\theta_i), \qquad q'_m = a\,R_m q_m, \quad k'_n = a\,R_n k_n $$

Each function returns frequencies or an amplitude for `RotaryEmbedding(head_dim, frequencies=..., amplitude=...)`.
Methods without an amplitude function use 1. All results are Python floats; none is learned.

| function                   | change of the frequencies                                    | source             |
|----------------------------|--------------------------------------------------------------|--------------------|
| `linear_frequencies`       | divides all: positions are interpolated                      | Chen et al. 2023   |
| `dynamic_ntk_frequencies`  | increases the base with the sequence length                  | Peng et al. 2023   |
| `yarn_frequencies`         | divides low ones, keeps high ones, ramps between             | Peng et al. 2023   |
| `llama3_frequencies`       | the same, with a ramp by wavelength                          | Meta 2024          |
| `longrope_frequencies`     | divides each by its own factor, found by search              | Ding et al. 2024   |
| `proportional_frequencies` | keeps high ones and sets low ones to zero                    | Google 2026        |

`dynamic_ntk_frequencies` and `longrope_frequencies` depend on the sequence length. For sequences of any length, give
`RotaryEmbedding` an `original_length` with `ntk_factor` or `long_frequencies`.
"""

import math
from collections.abc import Sequence

from flax import nnx

from jax_attention.arguments import checked
from jax_attention.positions.rotary import rotary_frequencies


@checked
def linear_frequencies(rotary_dim: int, factor: float, *, base: float = 10000.0) -> tuple[float, ...]:
    """Linear scaling, θ_i / factor: position m gets the angles of position m / factor (Chen et al. 2023, eq. 3).

    Raises:
        ValueError: `rotary_dim` is odd.
    """
    return tuple(theta / factor for theta in rotary_frequencies(rotary_dim, base))


@checked
def dynamic_ntk_frequencies(
    rotary_dim: int, length: int, factor: float, *, original_length: int, base: float = 10000.0
) -> tuple[float, ...]:
    """Dynamic NTK scaling: a base that grows with the length (Peng et al. 2023, section 3.3; there called NTK-aware).

    base' = base (factor length / original_length - (factor - 1))^(d / (d - 2)) beyond `original_length`, and base up to
    it; the two agree at `original_length`.

    Raises:
        ValueError: `rotary_dim` is odd, or 2, for which the exponent is undefined.
    """
    if rotary_dim <= 2:
        raise ValueError(f"rotary_dim must be above 2, got {rotary_dim}")
    stretch = factor * max(length, original_length) / original_length - (factor - 1.0)
    return rotary_frequencies(rotary_dim, base * stretch ** (rotary_dim / (rotary_dim - 2)))


@checked
def yarn_frequencies(
    rotary_dim: int,
    factor: float,
    *,
    original_length: int,
    base: float = 10000.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, ...]:
    """YaRN scaling: high frequencies are kept, low ones are divided by `factor` (Peng et al. 2023).

    A pair that makes r rotations within `original_length` keeps its frequency for r above `beta_fast`. Its frequency is
    divided by `factor` for r below `beta_slow`, and interpolated linearly in the pair index between. Use it with
    `yarn_amplitude`.

    Args:
        rotary_dim: number of rotated features.
        factor: ratio of the extended length to `original_length`.
        original_length: length that the model was trained on.
        base: base of the frequencies; the longest wavelength is about `2 pi base` positions.
        beta_fast: number of rotations above which a pair is kept.
        beta_slow: number of rotations below which a pair is divided.
        truncate: whether the ramp begins and ends at integer pair indices, as in the paper's code (False in gpt-oss).

    Raises:
        ValueError: `rotary_dim` is odd.
    """

    def pair_that_turns(turns: float) -> float:
        return rotary_dim * math.log(original_length / (turns * 2.0 * math.pi)) / (2.0 * math.log(base))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    high = high if high != low else high + 0.001  # as in the paper's code, to avoid a division by zero
    divided = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(rotary_dim // 2)]
    thetas = rotary_frequencies(rotary_dim, base)
    return tuple(
        theta / factor * share + theta * (1.0 - share) for theta, share in zip(thetas, divided, strict=True)
    )


@checked
def yarn_amplitude(factor: float, weight: float = 1.0) -> float:
    """YaRN amplitude, 0.1 weight ln(factor) + 1: its square multiplies the scores (Peng et al. 2023, eq. 22).

    DeepSeek uses the ratio of the amplitudes for the weights `mscale` and `mscale_all_dim`.
    """
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0


@checked
def llama3_frequencies(
    rotary_dim: int,
    factor: float,
    *,
    original_length: int,
    base: float = 500000.0,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
) -> tuple[float, ...]:
    """Llama 3.1 scaling: short wavelengths are kept, long ones are multiplied by `factor` (Meta 2024).

    A pair that makes r rotations within `original_length` keeps its frequency for r above `high_freq_factor`. Its
    frequency is divided by `factor` for r below `low_freq_factor`, and interpolated linearly in r between.

    Raises:
        ValueError: `rotary_dim` is odd.
    """

    def scaled(theta: float) -> float:
        turns = original_length * theta / (2.0 * math.pi)
        kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        kept = min(max(kept, 0.0), 1.0)
        return (1.0 - kept) * theta / factor + kept * theta

    return tuple(scaled(theta) for theta in rotary_frequencies(rotary_dim, base))


@checked
def longrope_frequencies(
    rotary_dim: int,
    length: int,
    *,
    short_factors: Sequence[float],
    long_factors: Sequence[float],
    original_length: int,
    base: float = 10000.0,
) -> tuple[float, ...]:
    """LongRoPE scaling: each frequency is divided by its own factor (Ding et al. 2024).

    `long_factors` apply if `length` is above `original_length`, else `short_factors`. Use it with `longrope_amplitude`.

    Raises:
        ValueError: `rotary_dim` is odd, or there is not one factor per pair.
    """
    thetas = rotary_frequencies(rotary_dim, base)
    for name, factors in (("short_factors", short_factors), ("long_factors", long_factors)):
        if len(factors) != len(thetas):
            raise ValueError(
                f"{name} must hold {len(thetas)} numbers for rotary_dim={rotary_dim}, got {len(factors)}"
            )
    factors = long_factors if length > original_length else short_factors
    return tuple(theta / factor for theta, factor in zip(thetas, factors, strict=True))


@checked
def longrope_amplitude(factor: float, *, original_length: int) -> float:
    """LongRoPE amplitude, sqrt(1 + ln(factor) / ln(original_length)) (Ding et al. 2024).

    Args:
        factor: ratio of the extended length to `original_length`.
        original_length: length that the model was trained on.
    """
    return math.sqrt(1.0 + math.log(factor) / math.log(original_length)) if factor > 1.0 else 1.0


@checked
def proportional_frequencies(
    head_dim: int, proportion: float, *, factor: float = 1.0, base: float = 10000.0
) -> tuple[float, ...]:
    """Proportional RoPE: only a proportion of the pairs rotates, the ones of highest frequency (Gemma 4, Google 2026).

    Unlike partial rotary, pairs are features i and i + head_dim / 2, and frequencies are computed for the whole head.

    Raises:
        ValueError: `head_dim` is odd.
    """
    turning = int(proportion * head_dim // 2)
    thetas = rotary_frequencies(head_dim, base)
    return tuple(theta / factor if i < turning else 0.0 for i, theta in enumerate(thetas))


def main() -> None:
    """Print four scaled frequencies for each method, and attention weights with YaRN."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.positions.rotary import RotaryEmbedding
    from jax_attention.self_attention import MultiHeadSelfAttention

    yarn = yarn_frequencies(8, 4.0, original_length=64, base=100.0, beta_fast=4.0, beta_slow=0.5)
    scaled = {
        "none": rotary_frequencies(8, 100.0),
        "linear": linear_frequencies(8, 4.0, base=100.0),
        "dynamic NTK": dynamic_ntk_frequencies(8, 128, 4.0, original_length=64, base=100.0),
        "YaRN": yarn,
        "Llama 3": llama3_frequencies(8, 4.0, original_length=64, base=100.0),
        "proportional": proportional_frequencies(8, 0.5, base=100.0),
    }
    for name, thetas in scaled.items():
        print(f"{name:>12}" + "".join(f"{theta:8.3f}" for theta in thetas))
    words = ["one", "two", "three"]
    position = RotaryEmbedding(8, frequencies=yarn, amplitude=yarn_amplitude(4.0))
    attention = fill(MultiHeadSelfAttention(embed_dim=16, num_heads=2, position=position, rngs=nnx.Rngs(0)))
    show("MultiHeadSelfAttention with YaRN", attention(draw(1, 3, 16)), words, words)


if __name__ == "__main__":
    main()
